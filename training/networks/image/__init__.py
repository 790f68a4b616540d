"""Networks of image-to-image models: the generators and the PatchGAN discriminator."""
