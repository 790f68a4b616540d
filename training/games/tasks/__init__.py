"""Image-to-image tasks, one kind per module."""
