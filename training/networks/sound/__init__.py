"""Networks for sounds, one architecture per module."""
