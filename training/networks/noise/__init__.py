"""TODO-ROOM training/networks/noise."""
