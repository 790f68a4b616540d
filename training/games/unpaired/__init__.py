"""The game of CycleGAN (arXiv:1703.10593): translation between unpaired sets of images."""
