"""Imports generators from ONNX files."""
