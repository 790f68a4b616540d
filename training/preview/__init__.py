"""TODO-ROOM training/preview."""
