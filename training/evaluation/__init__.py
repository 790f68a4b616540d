"""Measuring the quality of models: metrics, evaluation, comparison, reports and search."""
