"""Batch sampling: datasets of any size, with the graphs and the seeds of the service."""
