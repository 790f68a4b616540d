"""How good a model is: figures measured on the exported graphs, through the runtime."""
