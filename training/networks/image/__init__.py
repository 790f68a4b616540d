"""TODO-ROOM training/networks/image."""
