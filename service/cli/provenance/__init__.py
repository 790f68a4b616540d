"""Commands about the origin of images: verify and reproduce."""
