"""GAN training: recipes, data, networks, games, the trainer, evaluation, export, import."""
