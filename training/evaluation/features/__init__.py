"""What metrics compare: feature networks, real images and their features, and a classifier."""
