"""TODO-ROOM service/api/routes."""
