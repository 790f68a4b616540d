"""TODO-ROOM training/export."""
