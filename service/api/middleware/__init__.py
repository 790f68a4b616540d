"""ASGI middleware: access log, authentication, body limits, errors, fast path."""
