"""Recipes: the schema of experiments, and reading them from YAML."""
