"""A model that scores how well images match texts, for R-precision.

Two linear maps into a common space, one of image features and one of sentence embeddings, trained
contrastively on real images and their captions (Radford et al. 2021, arXiv:2103.00020). They are
trained on each evaluation, which takes seconds, because the features come from a fixed network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.captions.encoders import NamedEncoder
from training.captions.reading import Captions

# The initial logarithm of the factor of the cosine similarities (1 / temperature).
_LOG_SCALE = 2.5
# Replaces the logits of pairs with the same text, which are neither matching nor mismatched.
_LEFT_OUT = -1e4

# Called with the number of training steps, and their total.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MatchingSettings:
    """Training settings. Together with the pairs, they determine the weights."""

    width: int = 128
    steps: int = 400
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class MatchingModel:
    """Scores of images and texts. Image features are standardized with `mean` and `deviation`."""

    image_map: nn.Module
    text_map: nn.Module
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    trained_on: int

    @torch.no_grad()
    def scores(
        self, features: NDArray[np.float32], texts: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return cosine similarities ``[N, M]`` of image features ``[N, d]`` and ``[M, e]``."""
        images = _directions(self.image_map, (features - self.mean) / self.deviation)
        scores: NDArray[np.float32] = (images @ _directions(self.text_map, texts).T).numpy()
        return scores


def train_matching_model(
    features: NDArray[np.float32],
    captions: Captions,
    encoder: NamedEncoder,
    settings: MatchingSettings | None = None,
    progress: Progress | None = None,
) -> MatchingModel:
    """Train on the features ``[N, d]`` of real images and all of their captions.

    The result depends only on the arguments.
    """
    settings = settings or MatchingSettings()
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    images = torch.from_numpy((features - mean) / deviation)
    texts = torch.from_numpy(encoder.embed([text for row in captions.rows for text in row]))
    counts = np.array([len(row) for row in captions.rows])
    starts = np.cumsum(counts) - counts
    numbers: dict[str, int] = {}
    same = torch.tensor(
        [numbers.setdefault(text.casefold(), len(numbers)) for text in captions.texts()]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        image_map, text_map = (
            nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(width, settings.width))
            for width in (images.shape[1], texts.shape[1])
        )
        scale = nn.Parameter(torch.tensor(_LOG_SCALE))
        optimizer = torch.optim.AdamW(
            [*image_map.parameters(), *text_map.parameters(), scale],
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps
        )
        rng = np.random.default_rng(settings.seed)
        for step in range(settings.steps):
            rows = rng.choice(len(images), min(settings.batch, len(images)), replace=False)
            chosen = starts[rows] + (rng.random(len(rows)) * counts[rows]).astype(np.int64)
            logits = scale.exp() * (
                _directions(image_map, images[rows]) @ _directions(text_map, texts[chosen]).T
            )
            own = torch.arange(len(rows))
            equal = same[rows][:, None] == same[rows]
            equal[own, own] = False
            logits = logits.masked_fill(equal, _LEFT_OUT)
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress:
                progress(step + 1, settings.steps)
    return MatchingModel(image_map.eval(), text_map.eval(), mean, deviation, len(images))


def _directions(module: nn.Module, vectors: NDArray[np.float32] | Tensor) -> Tensor:
    """Map vectors ``[N, d]``, scaled to a mean square of 1, to unit vectors."""
    vectors = torch.as_tensor(vectors)
    scale = vectors.square().mean(1, keepdim=True).add(1e-12).rsqrt()
    return F.normalize(module(vectors * scale), dim=1)
