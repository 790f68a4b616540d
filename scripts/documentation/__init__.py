"""Builds the documentation site: the pages in docs/, and a reference generated from the code."""
