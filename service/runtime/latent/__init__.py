"""TODO-ROOM service/runtime/latent."""
