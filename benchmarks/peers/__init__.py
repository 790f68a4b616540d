"""Servers that people would use instead of Ganymede, each set up as its own documentation suggests.

Each runs in its own environment, so none may import Ganymede or another peer. They share only
`generator.py`, which needs NumPy, ONNX Runtime and fpng.
"""
