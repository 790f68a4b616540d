"""Subcommands that work in the latent space of a model."""
