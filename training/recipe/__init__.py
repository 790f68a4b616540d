"""TODO-ROOM training/recipe."""
