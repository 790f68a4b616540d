"""The `ganymede` subcommands for training, one module each."""
