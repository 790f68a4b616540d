"""Evaluation of generators of text: likelihood, BLEU and self-BLEU at several temperatures."""
