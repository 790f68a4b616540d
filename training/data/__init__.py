"""Training data: image sources, decoded data sets, batches, pairs, and synthetic inputs."""
