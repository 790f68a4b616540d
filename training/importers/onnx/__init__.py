"""Imports generators that are ONNX graphs already."""
