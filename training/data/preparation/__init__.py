"""Preparation of a data set: crop, resize, convert, deduplicate and split, like NVIDIA's tool."""
