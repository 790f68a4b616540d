"""Routes that generate text, or images from text."""
