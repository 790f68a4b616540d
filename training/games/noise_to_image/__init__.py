"""The original GAN: images from noise (arXiv:1406.2661)."""
