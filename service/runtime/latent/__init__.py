"""The latent space: seeds, latents, styles, style mixing, interpolation and transforms."""
