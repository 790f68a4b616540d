"""Inversion: finds the latent of an image, with a trained encoder and by optimization."""
