"""Text generation: SeqGAN (arXiv:1609.05473), and a game on Gumbel-softmax samples (RelGAN)."""
