"""Differentiable augmentation of the discriminator's inputs, real and generated.

It keeps a discriminator from memorizing a small data set. Images are ``[N, C, H, W]`` in [-1, 1].
Each image is augmented independently, on its own device, with random numbers from PyTorch's global
state.
"""
