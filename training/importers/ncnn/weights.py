"""Reads the weights of an ncnn network: the ``.bin`` file.

The file has no names: the layers read their weights one after the other. A weight begins with a
flag for its type: float32, fp16, or a table of 256 values with an index for each weight. Biases and
statistics are float32 without a flag.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.importers.errors import ModelImportError

_FP16, _INT8, _FLOAT32 = 0x01306B47, 0x000D4B38, 0x0002C056
_TABLE = 256


class WeightReader:
    """Reads a ``.bin`` file from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        """Raises ModelImportError if the file cannot be read."""
        self.path = path
        try:
            self._data = path.read_bytes()
        except FileNotFoundError as error:
            raise ModelImportError(
                f"{path} does not exist: the weights of ncnn are in a .bin file beside the .param "
                "file"
            ) from error
        except OSError as error:
            raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
        self._offset = 0

    def weight(self, *shape: int) -> Tensor:
        """Read a weight, which begins with a flag. Raises ModelImportError."""
        count = _count(shape)
        flag = int.from_bytes(self._take(4), "little")
        if flag == _FP16:
            values = np.frombuffer(self._take_aligned(2 * count), "<f2", count)
        elif flag == _INT8:
            raise ModelImportError(
                f"{self.path} has int8 weights, with which ncnn also rounds the values between the "
                "layers; import the network with fp16 or float32 weights"
            )
        elif flag in (0, _FLOAT32):
            values = np.frombuffer(self._take(4 * count), "<f4", count)
        elif sum(flag.to_bytes(4, "little")):
            table = np.frombuffer(self._take(4 * _TABLE), "<f4", _TABLE)
            values = table[np.frombuffer(self._take_aligned(count), np.uint8, count)]
        return self._tensor(values, shape)

    def plain(self, *shape: int) -> Tensor:
        """Read float32 values without a flag. Raises ModelImportError."""
        count = _count(shape)
        return self._tensor(np.frombuffer(self._take(4 * count), "<f4", count), shape)

    def assert_complete(self) -> None:
        """Raise ModelImportError if the layers do not use all weights."""
        rest = len(self._data) - self._offset
        if rest:
            raise ModelImportError(
                f"{self.path} has {rest:,} bytes more than the layers of the .param file use: the "
                "files do not belong together"
            )

    def _take(self, size: int) -> bytes:
        start, self._offset = self._offset, self._offset + size
        if self._offset > len(self._data):
            raise ModelImportError(
                f"{self.path} ends before the weights of all layers: it is damaged, or the files "
                "do not belong together"
            )
        return self._data[start : self._offset]

    def _take_aligned(self, size: int) -> bytes:
        """Take bytes that are padded to a multiple of 4."""
        return self._take(-(-size // 4) * 4)[:size]

    def _tensor(self, values: NDArray[np.generic], shape: tuple[int, ...]) -> Tensor:
        if not np.isfinite(values).all():
            raise ModelImportError(f"{self.path} has weights that are NaN or infinite")
        return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    if min(shape, default=1) < 0 or count > 2**31:
        raise ModelImportError(f"a layer has weights of the shape {'×'.join(map(str, shape))}")
    return count
