"""The generator of all peers: runs the graphs of one model folder, from seeds to files.

It uses the same graphs, seed rule and encoder as Ganymede, but embeds no metadata. Pillow encodes
gray images, which fpng does not support, at its fastest level.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import fpng
import numpy as np
import onnxruntime as ort
from PIL import Image


class Generator:
    """Loads the model folder ``$PEER_MODEL``; each run uses ``$PEER_THREADS`` threads."""

    def __init__(self) -> None:
        folder = Path(os.environ["PEER_MODEL"])
        manifest = json.loads((folder / "model.json").read_text())
        self.dimension = manifest["latent"]["dimension"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "1"))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = [
            ort.InferenceSession(
                str(folder / manifest["graphs"][role]["file"]),
                options,
                providers=["CPUExecutionProvider"],
            )
            for role in ("generator", "mapping", "synthesis")
            if role in manifest["graphs"]
        ]

    def pixels(self, seeds: Sequence[int]) -> np.ndarray:
        """Return the images ``[N, H, W, C] uint8`` of `seeds`."""
        state = np.random.RandomState(0)
        z = np.empty((len(seeds), self.dimension), np.float32)
        for row, seed in zip(z, seeds, strict=True):
            state.seed(seed)
            row[:] = state.randn(self.dimension)
        feeds = {"z": z, "truncation": np.ones(len(seeds), np.float32)}
        for session in self._sessions:
            inputs = {i.name: feeds[i.name] for i in session.get_inputs()}
            names = [o.name for o in session.get_outputs()]
            feeds.update(zip(names, session.run(None, inputs), strict=True))
        return feeds["pixels"]


def png(pixels: np.ndarray) -> bytes:
    """Encode one image ``[H, W, C]``."""
    if pixels.shape[2] == 1:
        out = io.BytesIO()
        Image.fromarray(pixels[:, :, 0]).save(out, "PNG", compress_level=1)
        return out.getvalue()
    return fpng.from_ndarray(np.ascontiguousarray(pixels))


def packed(pixels: np.ndarray, container: str) -> tuple[bytes, str]:
    """Return images as one file, ``png`` (the first), ``npy`` or ``zip``, and its media type."""
    if container == "png":
        return png(pixels[0]), "image/png"
    out = io.BytesIO()
    if container == "npy":
        np.save(out, pixels, allow_pickle=False)
        return out.getvalue(), "application/x-npy"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for i, each in enumerate(pixels):
            archive.writestr(zipfile.ZipInfo(f"{i:02}.png"), png(each))
    return out.getvalue(), "application/zip"
