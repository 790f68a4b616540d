"""Text: vocabularies, and sampling of tokens."""
