"""Games: the training algorithms, and everything that differs between them.

A game is a package with its options, training step, setup and validation.
"""
