"""HTTP: schemas, routes, errors, metrics. Depends on the runtime, but not on the host."""
