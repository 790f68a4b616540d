"""Checkpoint formats of generators from noise."""
