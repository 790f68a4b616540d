"""Everything that makes generators: recipes, data, networks, games, the trainer, the exporter."""
