"""Latent tools: directions, inversion, and generators with gradients."""
