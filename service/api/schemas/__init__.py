"""Pydantic models of requests and responses, one module per route; shared fields in `fields`."""
