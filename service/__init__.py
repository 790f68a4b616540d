"""The service: runtime, HTTP API, host integration and command line.

Nothing in this package imports PyTorch or `training`.
"""

__version__ = "0.1.0"
