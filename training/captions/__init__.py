"""Captions of images, and the text encoder that turns them into sentence embeddings."""
