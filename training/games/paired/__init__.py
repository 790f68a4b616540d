"""The game of pix2pix (arXiv:1611.07004): image-to-image translation from pairs."""
