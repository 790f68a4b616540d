"""Outputs other than images."""
