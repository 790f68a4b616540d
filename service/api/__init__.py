"""HTTP: schemas, one module per resource, errors, metrics. Knows the runtime, not its host."""
