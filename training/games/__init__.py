"""Games: how the players of a recipe take turns, and everything that differs between games.

A game is a package with its options, its training step, its set-up, and its validation.
"""
