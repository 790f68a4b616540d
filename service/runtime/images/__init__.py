"""Images: decoding, encoding, animations, tiling and image-to-image inference."""
