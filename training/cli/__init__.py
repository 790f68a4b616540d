"""TODO-ROOM training/cli."""
