"""gRPC: its calls are requests of the ASGI application, like those of HTTP."""
