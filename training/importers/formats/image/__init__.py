"""TODO-ROOM training/importers/formats/image."""
