"""Alternatives to Ganymede, each set up as its documentation recommends.

Each runs in an environment of its own, and must not import Ganymede or another peer. They share
`generator.py` only, which needs NumPy, ONNX Runtime and fpng.
"""
