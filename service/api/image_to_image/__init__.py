"""What routes and protocols share that run image-to-image models on uploads."""
