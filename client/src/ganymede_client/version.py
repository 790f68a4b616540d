"""The version of this package: that of the service which it was tested with."""

__version__ = "0.1.0"
