"""Compares the networks that result from different choices of what tensors do not determine."""
