"""The published checkpoint layouts that can be imported."""
