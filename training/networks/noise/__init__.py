"""Networks of noise-to-image models: generators from latents, and their discriminators."""
