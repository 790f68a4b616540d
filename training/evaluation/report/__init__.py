"""Output of results: HTML reports, terminal tables, model cards and the page of all models."""
