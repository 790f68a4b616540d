"""Tasks from images to images, one kind per module."""
