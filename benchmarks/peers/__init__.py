"""Alternatives to Ganymede, each set up as its documentation recommends.

Each runs in its own environment, and must not import Ganymede or another peer. They only share
`generator.py`, which needs NumPy, ONNX Runtime and fpng.
"""
