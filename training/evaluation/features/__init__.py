"""TODO-ROOM training/evaluation/features."""
