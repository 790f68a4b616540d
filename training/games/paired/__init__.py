"""pix2pix: an image to the one that belongs to it (arXiv:1611.07004)."""
