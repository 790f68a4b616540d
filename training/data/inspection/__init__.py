"""Inspection of a data set: what is in it, what is wrong with it, and a contact sheet."""
