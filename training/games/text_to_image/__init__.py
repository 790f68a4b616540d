"""Text to image: the game of the original GAN, conditioned on sentence embeddings."""
