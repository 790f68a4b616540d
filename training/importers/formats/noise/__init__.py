"""Converters for checkpoints of noise-to-image models."""
