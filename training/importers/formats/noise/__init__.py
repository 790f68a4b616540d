"""TODO-ROOM training/importers/formats/noise."""
