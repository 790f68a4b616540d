"""Reads checkpoint files as data, without executing anything in them."""
