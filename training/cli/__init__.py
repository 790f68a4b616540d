"""Training's commands of the `ganymede` command line, one module each."""
