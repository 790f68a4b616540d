"""Text as training data: corpora of lines, vocabularies, and the synthetic oracle of SeqGAN."""
