"""Pretrained networks, and what is built on their features."""
