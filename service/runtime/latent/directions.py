"""The vectors of the named directions of a model folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.files import open_regular
from service.runtime.models.manifest import Manifest, ManifestError, file_sha256
from service.runtime.models.parts.additions import DIRECTIONS_FILE

Vector = NDArray[np.float32]
# The header of an array in an .npz file.
_MAX_HEADER_BYTES = 1024


def load_directions(folder: Path, manifest: Manifest) -> dict[str, Vector]:
    """Return the vectors of the directions in a model folder by name, in the manifest's order.

    A vector is ``[w_dim]`` or ``[z_dim]`` float32. Added once to a latent, it moves it by one unit,
    which is one standard deviation of the latents. Raises ManifestError if ``directions.npz`` does
    not contain the vectors that the manifest describes.
    """
    if manifest.directions is None:
        return {}
    path = folder / DIRECTIONS_FILE
    try:
        if file_sha256(path) != manifest.directions.sha256:
            raise ManifestError(f"{path.name} differs from the manifest: its SHA-256 is another")
        expected = {
            item.name: _dimension(manifest, item.space) for item in manifest.directions.items
        }
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_members(archive, expected)
            arrays = {name: _read(archive, name) for name in expected}
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ManifestError(f"{path.name} is not a valid .npz file: {error}") from error
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != (expected[name],):
            raise ManifestError(
                f"{path.name}: {name} is {array.dtype} {list(array.shape)}; "
                f"the manifest expects float32 [{expected[name]}]"
            )
        if not np.isfinite(array).all() or not array.any():
            raise ManifestError(f"{path.name}: {name} must have finite values, and not only zeros")
    return arrays


def save_directions(path: Path, vectors: Mapping[str, Vector]) -> None:
    """Write vectors by name as an .npz file. Equal vectors give equal bytes.

    `numpy.savez` takes names as keyword arguments, and would confuse some with its own.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, vector in vectors.items():
            # Without a date: the time of writing would change the SHA-256.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(vector, "<f4"), allow_pickle=False)


def _read(archive: zipfile.ZipFile, name: str) -> Vector:
    """Return one array of an archive. Raises ValueError."""
    with archive.open(f"{name}.npy") as member:
        array: Vector = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _check_members(archive: zipfile.ZipFile, expected: Mapping[str, int]) -> None:
    """Raise ManifestError unless the archive holds vectors of the `expected` dimensions only.

    The sizes are checked before decompression, because the file is untrusted input.
    """
    sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
    if set(sizes) != set(expected):
        names = ", ".join(sorted(set(sizes) ^ set(expected))[:5])
        raise ManifestError(f"{DIRECTIONS_FILE} and the manifest have different names: {names}")
    for name, size in sizes.items():
        if size > expected[name] * 4 + _MAX_HEADER_BYTES:
            raise ManifestError(f"{DIRECTIONS_FILE}: {name} has {size:,} bytes, which is too large")


def _dimension(manifest: Manifest, space: str) -> int:
    """Return the dimension of `space`. Raises ManifestError if the model does not have it."""
    if space == "w" and manifest.styles is not None:
        return manifest.styles.dimension
    if space == "z" and manifest.latent is not None:
        return manifest.latent.dimension
    raise ManifestError(f"the model has no latent space {space}")
