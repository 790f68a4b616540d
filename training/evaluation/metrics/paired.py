"""Pictures against the ones that they should have been, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from training.data.sources import open_source
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import FeatureNetwork, Features, Progress

# Of a perfect copy, the ratio is without bound; this is what it is said to be then, in dB.
MOST_PSNR = 100.0
_SIGMA, _RADIUS = 1.5, 5
_STEADY = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class PairFigures:
    """For each pair: PSNR in dB, SSIM, and the distance of features; ``[N]`` each."""

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    feature_distance: NDArray[np.float64]


def open_pairs(made: Path, wanted: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    """Read the pictures of two folders or archives that have the same name, but for its ending.

    Returns both ``[N, H, W, 3] uint8`` and the names. Raises DataError, and QualityError where no
    names meet or sizes differ.
    """
    sources = [open_source(path, "train") for path in (made, wanted)]
    by_name = [
        {str(PurePosixPath(name).with_suffix("")): i for i, name in enumerate(source.names)}
        for source in sources
    ]
    names = sorted(by_name[0].keys() & by_name[1].keys())
    if not names:
        raise QualityError(f"no picture of {made} has the name of one of {wanted}")
    sets = []
    for source, rows in zip(sources, by_name, strict=True):
        pictures = [np.asarray(source.read(rows[name]).convert("RGB")) for name in names]
        if len({picture.shape for picture in pictures}) > 1:
            raise QualityError("pairs are compared by their pixels: all need one size")
        sets.append(np.stack(pictures))
    return sets[0], sets[1], names


def compare_pairs(
    made: NDArray[np.uint8],
    wanted: NDArray[np.uint8],
    network: FeatureNetwork,
    progress: Progress | None = None,
    features: Features | None = None,
) -> PairFigures:
    """Compare ``[N, H, W, C] uint8`` with as many of the same size.

    PSNR over all channels of values up to 255; SSIM with its authors' Gaussian window of 11 pixels
    (Wang et al. 2004), cut at the edges; the feature distance is 1 minus the cosine. `features` are
    those of `wanted` where they are known.
    Raises QualityError where the two do not fit.
    """
    if made.shape != wanted.shape:
        raise QualityError(f"pairs need equal sizes, got {made.shape} and {wanted.shape}")
    error = np.square(made.astype(np.float64) - wanted).reshape(len(made), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        psnr = np.minimum(10 * np.log10(255.0**2 / error), MOST_PSNR)
    ssim = np.array([_ssim(*pair) for pair in zip(made, wanted, strict=True)])
    features = features or network.features(wanted, progress)
    of_made = network.features(made, progress)
    a, b = (each.vectors.astype(np.float64) for each in (of_made, features))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return PairFigures(psnr, ssim, 1 - cosine)


def _ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the structural similarity of two pictures ``[H, W, C]``, the mean over channels."""

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = gaussian_filter(
            values, _SIGMA, radius=_RADIUS, axes=(0, 1), mode="mirror"
        )
        # Windows that reach over the edge see made-up pixels; small pictures have no others.
        edge = _RADIUS if min(values.shape[:2]) > 2 * _RADIUS else 0
        return smooth[edge : len(smooth) - edge, edge : smooth.shape[1] - edge]

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + _STEADY[0]) / (mean_x**2 + mean_y**2 + _STEADY[0])
    shape = (2 * covariance + _STEADY[1]) / (variance_x + variance_y + _STEADY[1])
    return float((light * shape).mean())
