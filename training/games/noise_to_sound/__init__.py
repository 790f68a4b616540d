"""The game of the original GAN on waveforms: sounds from noise."""
