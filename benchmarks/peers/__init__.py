"""The servers that people would use in place of Ganymede, each in a file as its own manual has it.

Every one runs in an environment of its own, so none of them may import Ganymede or another peer:
what they share is `generator.py`, which needs NumPy, ONNX Runtime and fpng.
"""
