"""Evaluation of image-to-image models: generated images and their targets, pair by pair."""
