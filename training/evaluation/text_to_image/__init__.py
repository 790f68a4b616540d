"""Evaluation of text-to-image models: how well images match their prompts."""
