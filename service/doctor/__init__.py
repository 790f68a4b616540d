"""Checks of an installation and its machine, each with what to do about a trouble."""
