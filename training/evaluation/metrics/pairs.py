"""PSNR, SSIM, feature distance and error between generated images and their targets.

SSIM is implemented here because it is too short to justify a dependency on scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.decoding import ImageDecodeError
from training.data.sources import ImageSource, open_source
from training.evaluation.errors import QualityError
from training.evaluation.metrics import Metric, PairMetrics, groups, pair_metrics

if TYPE_CHECKING:
    from training.evaluation.features.networks import FeatureNetwork, Features, Progress

Pixels = NDArray[np.uint8]

# The value in dB that is reported for equal images, whose PSNR is infinite.
MAX_PSNR = 100.0
# The Gaussian window in the SSIM paper has 11 pixels.
_SIGMA, _RADIUS = 1.5, 5
# The constants C₁ and C₂ of the paper, which keep the fractions stable.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class ImagePairs:
    """Generated images and their targets, ``[N, H, W, C] uint8`` each.

    `target_features` are the features of the targets if they are known, otherwise None.
    """

    generated: Pixels
    targets: Pixels
    network: FeatureNetwork
    progress: Progress | None = None
    target_features: Features | None = None


def open_pairs(generated: Path, targets: Path) -> tuple[Pixels, Pixels, list[str]]:
    """Read the images of two folders or archives, matched by file name without the extension.

    Returns the generated images and the targets, ``[N, H, W, 3] uint8`` each, and the names. Raises
    DataError, and QualityError if no names match or the sizes differ.
    """
    sources = [open_source(path) for path in (generated, targets)]
    by_name = [
        {str(PurePosixPath(name).with_suffix("")): i for i, name in enumerate(source.names)}
        for source in sources
    ]
    names = sorted(by_name[0].keys() & by_name[1].keys())
    if not names:
        raise QualityError(f"no image in {generated} has the same name as an image in {targets}")
    sets = []
    for source, rows in zip(sources, by_name, strict=True):
        images = [_pixels(source, rows[name]) for name in names]
        if len({image.shape for image in images}) > 1:
            raise QualityError(
                "pairs are compared pixel by pixel: all images must have the same size"
            )
        sets.append(np.stack(images))
    return sets[0], sets[1], names


def _pixels(source: ImageSource, row: int) -> Pixels:
    """Decode one image. Raises QualityError, which names it: a pair cannot be left out."""
    try:
        return np.asarray(source.read(row).convert("RGB"))
    except (ImageDecodeError, OSError, ValueError) as error:
        raise QualityError(f"{source.names[row]} cannot be read: {error}") from error


def compare_pairs(
    generated: Pixels,
    targets: Pixels,
    network: FeatureNetwork,
    progress: Progress | None = None,
    target_features: Features | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compare two sets of images ``[N, H, W, C] uint8`` pair by pair.

    Returns the values ``[N]`` of every metric of pairs, by name. Raises QualityError if the shapes
    differ.
    """
    if generated.shape != targets.shape:
        raise QualityError(f"pairs need equal sizes, got {generated.shape} and {targets.shape}")
    pairs = ImagePairs(generated, targets, network, progress, target_features)
    values: dict[str, NDArray[np.float64]] = {}
    for group in groups():
        if isinstance(group, PairMetrics):
            values |= group.measure(pairs)
    return values


@pair_metrics(
    Metric(
        name="psnr",
        title="PSNR",
        key="PSNR",
        better="higher",
        order=100,
        unit="dB",
        in_validation=True,
        selectable=True,
    )
)
def psnr(pairs: ImagePairs) -> dict[str, NDArray[np.float64]]:
    """Peak signal-to-noise ratio in dB over all channels, for values up to 255."""
    error = np.square(pairs.generated.astype(np.float64) - pairs.targets)
    with np.errstate(divide="ignore"):
        values = 10 * np.log10(255.0**2 / error.reshape(len(error), -1).mean(axis=1))
    return {"psnr": np.minimum(values, MAX_PSNR)}


@pair_metrics(
    Metric(
        name="ssim",
        title="SSIM",
        key="SSIM",
        better="higher",
        order=101,
        in_validation=True,
        selectable=True,
    )
)
def ssim(pairs: ImagePairs) -> dict[str, NDArray[np.float64]]:
    """Structural similarity (Wang et al. 2004), averaged over channels."""
    both = zip(pairs.generated, pairs.targets, strict=True)
    return {"ssim": np.array([_ssim(*pair) for pair in both])}


@pair_metrics(
    Metric(
        name="feature_distance",
        title="feature distance",
        key="feature distance",
        better="lower",
        order=102,
        names_network=True,
        in_validation=True,
        selectable=True,
    )
)
def feature_distance(pairs: ImagePairs) -> dict[str, NDArray[np.float64]]:
    """1 minus the cosine similarity of features."""
    targets = pairs.target_features or pairs.network.features(pairs.targets, pairs.progress)
    generated = pairs.network.features(pairs.generated, pairs.progress)
    a, b = (each.vectors.astype(np.float64) for each in (generated, targets))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return {"feature_distance": 1 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)}


@pair_metrics(
    Metric(
        name="error",
        title="mean absolute error",
        key="error",
        better="lower",
        order=103,
        in_validation=True,
        per_pair=False,
    )
)
def error(pairs: ImagePairs) -> dict[str, NDArray[np.float64]]:
    """Mean absolute difference of pixel values, scaled to 0 to 1."""
    difference = np.abs(pairs.generated.astype(np.int16) - pairs.targets)
    return {"error": difference.reshape(len(difference), -1).mean(axis=1) / 255}


def _ssim(a: Pixels, b: Pixels) -> float:
    """Return the structural similarity of two images ``[H, W, C]``."""
    moments = _Moments.of(a, b)
    x, y = moments.mean_a, moments.mean_b
    luminance = (2 * x * y + _C1) / (x**2 + y**2 + _C1)
    structure = (2 * moments.covariance + _C2) / (moments.variance_a + moments.variance_b + _C2)
    return float((luminance * structure).mean())


def structure_similarity(a: Pixels, b: Pixels) -> float:
    """Return the structure term of SSIM (Wang et al. 2004, eq. 10) of two images ``[H, W, C]``.

    It is the correlation of the values in each window: 1 where only brightness or contrast differ,
    and near 0 where edges are in other places.
    """
    moments = _Moments.of(a, b)
    deviations = np.sqrt(moments.variance_a.clip(0) * moments.variance_b.clip(0))
    return float(((moments.covariance + _C2 / 2) / (deviations + _C2 / 2)).mean())


@dataclass(frozen=True)
class _Moments:
    """Means, variances and covariance of two images in Gaussian windows."""

    mean_a: NDArray[np.float64]
    mean_b: NDArray[np.float64]
    variance_a: NDArray[np.float64]
    variance_b: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, a: Pixels, b: Pixels) -> _Moments:
        """Compute the moments of two images ``[H, W, C]``."""
        from scipy.ndimage import gaussian_filter

        def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
            smooth: NDArray[np.float64] = gaussian_filter(
                values, _SIGMA, radius=_RADIUS, axes=(0, 1), mode="mirror"
            )
            # Windows that cross the edge are omitted, unless the image is smaller than a window.
            edge = _RADIUS if min(values.shape[:2]) > 2 * _RADIUS else 0
            return smooth[edge : len(smooth) - edge, edge : smooth.shape[1] - edge]

        x, y = a.astype(np.float64), b.astype(np.float64)
        mean_x, mean_y = blur(x), blur(y)
        return cls(
            mean_x,
            mean_y,
            blur(x * x) - mean_x**2,
            blur(y * y) - mean_y**2,
            blur(x * y) - mean_x * mean_y,
        )
