"""Evaluation of models that generate sounds."""
