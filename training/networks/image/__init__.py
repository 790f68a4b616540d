"""Networks of image-to-image models: generators from images to images, and PatchGAN."""
