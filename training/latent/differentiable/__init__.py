"""Runs the ONNX graphs of model folders in PyTorch, with gradients."""
