"""Imports generators that were trained elsewhere.

Checkpoints are read as data and never executed. A format is a small module that declares which keys
a checkpoint must have and infers all sizes from the shapes of the tensors.
"""
