"""Evaluation of image-to-image models: generated images against their targets, pair by pair."""
