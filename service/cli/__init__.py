"""The `ganymede` command: one module per verb."""
