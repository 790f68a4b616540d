"""TODO-ROOM training/evaluation/metrics."""
