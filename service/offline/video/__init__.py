"""Videos without the service: walks through latent space, and films through a model."""
