"""Named directions in the latent space of a model: how they are found, measured and stored."""
