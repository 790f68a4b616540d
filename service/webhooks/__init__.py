"""Webhooks: where they may be sent, their signatures, and one request. Knows no jobs."""
