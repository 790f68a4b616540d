"""TODO-ROOM training/evaluation/search."""
