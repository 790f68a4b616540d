"""Batch sampling: data sets of any size, from the same graphs and seeds as in the service."""
