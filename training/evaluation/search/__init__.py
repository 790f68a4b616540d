"""Hyperparameter search: `ganymede search`."""
