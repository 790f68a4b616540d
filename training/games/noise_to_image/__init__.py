"""The game of the original GAN (arXiv:1406.2661): images from noise."""
