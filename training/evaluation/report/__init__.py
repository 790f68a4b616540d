"""TODO-ROOM training/evaluation/report."""
