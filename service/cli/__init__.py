"""The `ganymede` command: one module a verb."""
