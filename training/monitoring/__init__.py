"""TODO-ROOM training/monitoring."""
