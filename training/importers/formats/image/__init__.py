"""Converters for checkpoints of image-to-image models, one format per module."""
