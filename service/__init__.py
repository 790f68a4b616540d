"""Everything that serves. Nothing here imports PyTorch, nor `training`."""
