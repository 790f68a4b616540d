"""TODO-ROOM service/cli."""
