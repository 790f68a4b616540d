"""TODO-ROOM service/api/middleware."""
