"""HTTP routes: module-level handlers, one module per resource."""
