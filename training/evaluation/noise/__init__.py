"""Evaluation of models that generate images from noise, and of folders of images."""
