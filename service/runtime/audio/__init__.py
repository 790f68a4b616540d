"""Audio: files with their provenance, and previews."""
