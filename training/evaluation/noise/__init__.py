"""Evaluation of noise models and of folders of images."""
