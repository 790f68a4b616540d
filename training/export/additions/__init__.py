"""Additions to an existing model folder: directions, encoder, discriminator, trainable weights."""

from training.export.additions.update import AdditionError, update_model_folder

__all__ = ["AdditionError", "update_model_folder"]
