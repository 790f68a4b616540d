"""The `ganymede` command: one module per subcommand."""
