"""TODO-ROOM training/importers/formats."""
