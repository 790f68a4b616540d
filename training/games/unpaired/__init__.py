"""CycleGAN: translation between two sets of images without pairs (arXiv:1703.10593)."""
