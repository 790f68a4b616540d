"""Inputs of metrics: feature networks, real images and their features, and a classifier."""
