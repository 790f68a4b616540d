"""Everything that serves. Nothing here imports PyTorch, nor `training`."""

__version__ = "0.1.0"
