"""Measures text-to-image models: R-precision, diversity per prompt and kernel distance.

R-precision (Xu et al. 2018, arXiv:1711.10485) is the share of generated images whose own prompt
scores higher than 99 other ones, by a model that matches images and texts. The prompts are held-out
captions, which neither the generator nor the matching model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent import seeds as latents
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.measurements import Quality
from training.captions.encoders import NamedEncoder
from training.captions.reading import (
    CaptionOptions,
    Captions,
    captioned,
    select_rows,
    without_texts,
)
from training.data.images import DataOptions
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import Progress
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.features.references import RealImages, Reference, open_reference
from training.evaluation.metrics import Measurement
from training.evaluation.metrics.diversity import mean_distance
from training.evaluation.metrics.kernel_distance import KERNEL_DISTANCE, kernel_distance
from training.evaluation.metrics.text_to_image import (
    PROMPT_DIVERSITY,
    R_PRECISION,
    R_PRECISION_PROMPTS,
)
from training.evaluation.text_to_image.matching import (
    MatchingModel,
    MatchingSettings,
    train_matching_model,
)

SAMPLES = 1_000
# The largest number of real images that the matching model is trained on.
_MAX_TRAINING = 20_000
_BATCH = 16
_RESAMPLES = 2_000
_MIN_PROMPTS = 10

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class RealPairs:
    """Real images of the training split and held-out ones, with their captions."""

    training: RealImages
    training_captions: Captions
    held_out: RealImages
    # The different held-out texts, and the prompt of each held-out image ``[N]``.
    prompts: tuple[str, ...]
    held_out_prompts: NDArray[np.int64]


@dataclass(frozen=True)
class _Measured:
    """Features ``[N, d]`` of images, and the prompt of each image ``[N]``."""

    features: Vectors
    prompts: NDArray[np.int64]


def open_real_pairs(
    data: DataOptions, captions: CaptionOptions, progress: Progress | None = None
) -> tuple[Reference, RealPairs]:
    """Read the real images and their captions.

    Training images with a held-out text are left out, as in training. Raises DataError, and
    QualityError without held-out captions.
    """
    if not data.has_splits():
        raise QualityError(
            f"{data.dataset_title} has no held-out captions: evaluate a run whose recipe sets "
            "data.hold_out"
        )
    reference = open_reference(data, progress=progress)
    held_out = reference.against
    texts = captioned(_options(data, held_out), held_out.images, captions).texts()
    keys = [text.casefold() for text in texts]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    if not reference.held_out or len(numbers) < _MIN_PROMPTS:
        raise QualityError(
            f"{held_out.title} has {len(numbers)} different captions; at least {_MIN_PROMPTS} held-"
            "out ones are needed"
        )
    training = reference.training
    rows = captioned(_options(data, training), training.images, captions)
    images, kept = without_texts(training.images, rows, texts)
    if len(images) > _MAX_TRAINING:
        chosen = np.random.default_rng(0).permutation(len(images))[:_MAX_TRAINING]
        images, kept = select_rows(images, kept, np.sort(chosen))
    first = [texts[keys.index(key)] for key in numbers]
    own = np.array([numbers[key] for key in keys])
    training = RealImages(training.title, training.split, images)
    return reference, RealPairs(training, kept, held_out, tuple(first), own)


def _options(data: DataOptions, images: RealImages) -> DataOptions:
    return data.model_copy(update={"split": images.split})


def evaluate_text_to_image(
    model: Model,
    encoder: NamedEncoder,
    pairs: RealPairs,
    network: FeatureNetwork,
    *,
    samples: int = SAMPLES,
    seed_start: int = 0,
    settings: MatchingSettings | None = None,
    progress: Progress | None = None,
) -> tuple[Quality, ...]:
    """Return the figures of a text-to-image model.

    Image i has the seed ``seed_start + i`` and the held-out prompt i modulo their number.
    """
    show = progress or (lambda *_: None)
    vectors = encoder.embed(pairs.prompts)
    prompts = np.arange(samples) % len(vectors)
    pixels = _generate(model, vectors[prompts], seed_start, show)
    features = cached_features(
        network, pixels, _stage("computing features of generated images", show)
    )
    generated = _Measured(features.vectors, prompts)
    held_out = _Measured(_features(pairs.held_out, network, progress), pairs.held_out_prompts)
    training = _features(pairs.training, network, progress)
    matching = train_matching_model(
        training,
        pairs.training_captions,
        encoder,
        settings,
        _stage("training the matching model", show),
    )
    shared = Quality(
        metric=R_PRECISION.key,
        value=0,
        feature_network=network.title,
        reference=pairs.held_out.title,
        reference_sha256=pairs.held_out.sha256,
        samples=samples,
        reference_samples=len(held_out.features),
        real_samples=len(held_out.features),
        resizing=network.resizing,
        seed_start=seed_start,
    )
    figures = [_r_precision(matching, vectors, generated, held_out, network, shared)]
    diversity = _prompt_diversity(generated, held_out)
    if diversity is not None:
        figures.append(_with(shared, PROMPT_DIVERSITY.key, diversity, PROMPT_DIVERSITY.note))
    distance = kernel_distance(generated.features, held_out.features)
    baseline = training[np.random.default_rng(0).permutation(len(training))[:samples]]
    of_real = kernel_distance(baseline, held_out.features).value
    key = KERNEL_DISTANCE.result_key(network)
    figures.append(
        _with(shared, key, distance, KERNEL_DISTANCE.note).model_copy(
            update={"real": of_real, "real_samples": len(baseline)}
        )
    )
    return tuple(figures)


def _generate(model: Model, vectors: Vectors, seed_start: int, show: Progress) -> NDArray[np.uint8]:
    latent = model.manifest.latent
    assert latent is not None  # noqa: S101 - validated by the manifest
    parts = []
    for start in range(0, len(vectors), _BATCH):
        text = vectors[start : start + _BATCH]
        rows = range(seed_start + start, seed_start + start + len(text))
        z = latents.draw(rows, latent.dimension, latent.distribution)
        parts.append(model.run(GENERATOR, {"z": z, "text": text})["pixels"])
        show("generating images", start + len(text), len(vectors))
    return np.concatenate(parts)


def _stage(name: str, show: Progress) -> Callable[[int, int], None]:
    return lambda done, total: show(name, done, total)


def _features(images: RealImages, network: FeatureNetwork, progress: Progress | None) -> Vectors:
    return images.features(np.arange(len(images.images)), network, progress).vectors


def _r_precision(
    matching: MatchingModel,
    prompts: Vectors,
    generated: _Measured,
    held_out: _Measured,
    network: FeatureNetwork,
    shared: Quality,
) -> Quality:
    """Return the R-precision with that of real images, and with the prompts of other images."""
    scores = matching.scores(generated.features, prompts)
    precision = r_precision(scores, generated.prompts)
    count = min(R_PRECISION_PROMPTS, len(prompts))
    # Each prompt is replaced by another one.
    order = np.random.default_rng(0).permutation(len(prompts))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    value, low, high = _over_prompts(precision, generated.prompts)
    real = r_precision(matching.scores(held_out.features, prompts), held_out.prompts).mean()
    return shared.model_copy(
        update={
            "value": value,
            "low": low,
            "high": high,
            "real": float(real),
            "baseline": float(r_precision(scores, others[generated.prompts]).mean()),
            "baseline_name": "shuffled prompts",
            "feature_network": (
                f"a matching model on features of {network.title}, trained on "
                f"{matching.trained_on:,} real images with captions"
            ),
            "note": f"the right one of {count} held-out prompts; chance is {1 / count:.1%}; "
            "95% interval over prompts",
        }
    )


def r_precision(scores: Vectors, own: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the precision of each image ``[N]`` from its scores ``[N, M]`` of all prompts.

    It is the probability that the prompt `own` ``[N]`` scores higher than all of 99 random other
    prompts, or than all others if there are fewer. Equal scores do not count as higher.
    """
    others = scores.shape[1] - 1
    drawn = min(R_PRECISION_PROMPTS - 1, others)
    own_scores = np.take_along_axis(scores, own[:, None], 1)
    not_lower = (scores >= own_scores).sum(1) - 1
    # The probability that none of k prompts is drawn: ∏ (others - drawn - j) / (others - j), j < k.
    j = np.arange(others)
    factors = np.maximum(others - drawn - j, 0) / (others - j)
    probability = np.concatenate([[1.0], np.cumprod(factors)])
    chosen: NDArray[np.float64] = probability[not_lower]
    return chosen


def _prompt_diversity(generated: _Measured, held_out: _Measured) -> Measurement | None:
    """Return the mean distance between images of a prompt; None for one image per prompt.

    The unit is the mean distance between two real images of different prompts.
    """
    prompts = held_out.prompts
    first = [int(np.flatnonzero(prompts == prompt)[0]) for prompt in np.unique(prompts)]
    unit = max(mean_distance(held_out.features[first], len(first)), 1e-12)
    distances, numbers = _distances_within(generated)
    if not len(distances):
        return None
    value, low, high = _over_prompts(distances / unit, numbers)
    of_real, _ = _distances_within(held_out)
    real = float(of_real.mean() / unit) if len(of_real) else None
    return Measurement(value, low, high, real)


def _distances_within(images: _Measured) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the mean distance between the images of each prompt with several, and the prompts."""
    groups = {int(prompt): images.prompts == prompt for prompt in np.unique(images.prompts)}
    several = {prompt: rows for prompt, rows in groups.items() if rows.sum() > 1}
    means = [mean_distance(images.features[rows], int(rows.sum())) for rows in several.values()]
    return np.array(means), np.array(list(several), np.int64)


def _over_prompts(
    values: NDArray[np.float64], prompts: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return the mean of values ``[N]`` with its 95% interval by a bootstrap over prompts.

    Images of one prompt depend on each other, so that an interval over images would be too narrow.
    """
    numbers = np.unique(prompts)
    sums = np.array([values[prompts == number].sum() for number in numbers])
    counts = np.array([(prompts == number).sum() for number in numbers])
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(numbers), (_RESAMPLES, len(numbers)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _with(shared: Quality, metric: str, measured: Measurement, note: str | None) -> Quality:
    return shared.model_copy(
        update={
            "metric": metric,
            "value": measured.value,
            "low": measured.low,
            "high": measured.high,
            "real": measured.real,
            "real_samples": shared.real_samples if measured.real is not None else None,
            "note": note,
        }
    )
