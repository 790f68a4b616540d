"""Routes that move in latent space: style mixing, interpolation, edits and inversion."""
