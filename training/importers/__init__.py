"""Generators made elsewhere: files read as data, recognised by what is in them, and rebuilt here.

Nothing that a file contains is executed. A format is a small module that declares which keys have
to be there and infers every size from the shapes of the tensors.
"""
