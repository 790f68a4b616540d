"""Layers and shapes that several network families share."""
