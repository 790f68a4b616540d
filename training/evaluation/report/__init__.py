"""How results are shown: HTML reports, terminal tables, model cards and the model zoo page."""
