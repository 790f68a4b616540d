"""TODO-ROOM training/networks/layers."""
