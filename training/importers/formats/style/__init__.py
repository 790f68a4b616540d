"""Generators with styles."""
