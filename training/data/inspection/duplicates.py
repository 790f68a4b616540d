"""Duplicates among images: exact ones by pixels, near ones by a perceptual hash.

Near duplicates are copies that were encoded again, resized or slightly changed in brightness. Two
images are near duplicates if their hashes differ in few bits and their thumbnails in few gray
levels; the thumbnails keep apart images that have the same structure in other colors.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Bits of the hash in which near duplicates may differ, of 64.
MAX_HASH_DISTANCE = 6
# Root mean square difference of the thumbnails of near duplicates, in gray levels.
MAX_THUMBNAIL_DISTANCE = 8.0
# Below this standard deviation, in gray levels, an image has no structure that a hash describes.
_MIN_CONTRAST = 2.0
_HASH_SIDE = 32
_THUMBNAIL_SIDE = 16


@dataclass(frozen=True)
class Appearance:
    """What identifies an image: a digest of its pixels, its perceptual hash and its thumbnail.

    `hash` is None for images without structure, which have no near duplicates. `thumbnail` is
    ``[16, 16, 3] uint8``.
    """

    digest: bytes
    hash: int | None
    thumbnail: NDArray[np.uint8]


def appearance(image: Image.Image) -> Appearance:
    """Return the appearance of an image of mode L, RGB or RGBA.

    The digest depends on the visible pixels only: a gray image and its RGB copy have the same one.
    """
    if image.has_transparency_data:
        pixels = np.array(image.convert("RGBA"))
        alpha = pixels[..., 3]
        if (alpha == 255).all():
            pixels = pixels[..., :3]
        else:
            pixels[alpha == 0] = 0
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, Image.fromarray(pixels))
    else:
        pixels = np.asarray(image.convert("RGB"))
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    small = image.convert("RGB").resize(
        (_HASH_SIDE, _HASH_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    gray = np.asarray(small.convert("L"), np.float64)
    return Appearance(
        digest.digest(),
        _perceptual_hash(gray) if gray.std() >= _MIN_CONTRAST else None,
        np.asarray(small.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)),
    )


def exact_groups(images: Sequence[Appearance]) -> list[list[int]]:
    """Return the groups of images with equal pixels, each in the order of `images`."""
    return _groups(image.digest for image in images)


def near_groups(images: Sequence[Appearance]) -> list[list[int]]:
    """Return the groups of near duplicates that are not exact ones.

    An image joins the group of the first image before it that it resembles, so that a chain of
    small changes does not connect images that look different. Of images with equal pixels only the
    first one is considered.
    """
    index = _NearIndex()
    first_of: dict[bytes, int] = {}
    leader_of = list(range(len(images)))
    for number, image in enumerate(images):
        if image.digest in first_of or image.hash is None:
            continue
        first_of[image.digest] = number
        leader = index.find(image.hash, image.thumbnail)
        if leader is None:
            index.add(number, image.hash, image.thumbnail)
        else:
            leader_of[number] = leader
    return _groups(leader_of)


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    members: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    return [group for group in members.values() if len(group) > 1]


class _NearIndex:
    """The images that others are compared with, in buckets by parts of their hashes.

    Two hashes of 64 bits that differ in at most d bits agree in at least one of d + 1 parts, so
    only images that share a bucket need to be compared.
    """

    def __init__(self) -> None:
        edges = np.linspace(0, 64, MAX_HASH_DISTANCE + 2).astype(int).tolist()
        self._parts = [(low, (1 << high - low) - 1) for low, high in itertools.pairwise(edges)]
        # By (part, bits): positions of the images.
        self._buckets: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
        self._numbers: list[int] = []
        self._hashes = np.empty(1024, np.uint64)
        self._thumbnails = np.empty((1024, _THUMBNAIL_SIDE, _THUMBNAIL_SIDE, 3), np.uint8)

    def add(self, number: int, value: int, thumbnail: NDArray[np.uint8]) -> None:
        position = len(self._numbers)
        if position == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._thumbnails = np.concatenate([self._thumbnails, np.empty_like(self._thumbnails)])
        self._numbers.append(number)
        self._hashes[position] = value
        self._thumbnails[position] = thumbnail
        for key in self._keys(value):
            self._buckets[key].append(position)

    def find(self, value: int, thumbnail: NDArray[np.uint8]) -> int | None:
        """Return the number of the first similar image, or None."""
        buckets = [self._buckets[key] for key in self._keys(value) if key in self._buckets]
        if not buckets:
            return None
        positions = np.concatenate([np.frombuffer(bucket, np.int64) for bucket in buckets])
        distance = np.bitwise_count(self._hashes[positions] ^ np.uint64(value))
        positions = np.unique(positions[distance <= MAX_HASH_DISTANCE])
        if not len(positions):
            return None
        difference = self._thumbnails[positions].astype(np.float32) - thumbnail
        near = np.square(difference).mean((1, 2, 3)) <= MAX_THUMBNAIL_DISTANCE**2
        return self._numbers[positions[near][0]] if near.any() else None

    def _keys(self, value: int) -> list[tuple[int, int]]:
        return [(part, value >> low & mask) for part, (low, mask) in enumerate(self._parts)]


def _perceptual_hash(gray: NDArray[np.float64]) -> int:
    """Return the 64-bit pHash of ``[32, 32]``: the signs of low frequencies around their median."""
    basis = _dct_basis()
    low = basis @ gray @ basis.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _dct_basis() -> NDArray[np.float64]:
    """Return the first 8 rows of the DCT-II matrix of order 32."""
    frequency, sample = np.arange(8)[:, None], np.arange(_HASH_SIDE)[None]
    basis: NDArray[np.float64] = np.cos(np.pi * frequency * (2 * sample + 1) / (2 * _HASH_SIDE))
    return basis
