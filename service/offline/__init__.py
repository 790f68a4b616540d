"""Batch sampling: data sets of any size, made by the same graphs and seeds as the service's."""
