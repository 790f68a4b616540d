"""TODO-ROOM training/importers/reading."""
