"""The errors of an import."""

from __future__ import annotations

from service.runtime.errors import UserError


class ModelImportError(UserError):
    """The file cannot be imported. Nothing was written."""


class UnsafeFileError(ModelImportError):
    """Reading or running the file would require executing code from it."""


class UnknownFormatError(ModelImportError):
    """The network matches no known format. It can be imported after an export to ONNX."""


class ImportOptionError(ModelImportError):
    """An option is invalid, or an option is required that the tensors do not determine."""


class FormatMismatchError(Exception):
    """The tensors do not match a format. `--explain` prints the message.

    With `near`, the network has the structure of the format, and only a detail is not supported.
    """

    def __init__(self, message: str, *, near: bool = False) -> None:
        super().__init__(message)
        self.near = near
