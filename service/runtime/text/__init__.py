"""Text: vocabularies, sampling of tokens, and sentence embeddings."""
