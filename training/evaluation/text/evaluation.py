"""Metrics of a generator of text at several temperatures.

A lower temperature trades diversity for quality, and a maximum-likelihood model can make the same
trade as adversarial training. Both are therefore measured at several temperatures (Caccia et al.
2020, "Language GANs Falling Short", arXiv:1811.02549).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.generation import execute, text_plan
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import STEP
from service.runtime.models.parts.measurements import Quality
from service.runtime.onnx.sessions import Array
from service.runtime.text.sampling import TextSource
from training.data.text.corpus import TextData
from training.data.text.vocabulary import END
from training.evaluation.evaluation import Progress
from training.evaluation.metrics import Metric, get_metric
from training.evaluation.metrics.text import BLEU_ORDER
from training.evaluation.text.bleu import ReferenceSet

DEFAULT_SAMPLES = 1_000
TEMPERATURES = (0.6, 0.8, 1.0, 1.2)
# Samples whose BLEU and self-BLEU are measured; the references of self-BLEU are the others.
_HYPOTHESES = 250
_MAX_REFERENCES = 1_000
_ROWS = 64

# Runs a graph by its role, as `Model.run`.
RunGraph = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class TextGenerator:
    """A generator of text: its name, the manifest of its graph, and the graph."""

    name: str
    manifest: Manifest
    run: RunGraph


@dataclass(frozen=True)
class TextRow:
    """The metrics of one generator at one temperature, by name, and its first samples."""

    generator: str
    temperature: float
    values: Mapping[str, float]
    samples: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The generator and the temperature."""
        return f"{self.generator}, temperature {self.temperature:g}"


def measure_rows(
    generators: Sequence[TextGenerator],
    data: TextData,
    samples: int = DEFAULT_SAMPLES,
    seed_start: int = 0,
    progress: Progress | None = None,
) -> list[TextRow]:
    """Measure every generator at every temperature, and last the training texts themselves."""
    measure = _Measurement(data, samples, seed_start)
    rows = []
    total = len(generators) * len(TEMPERATURES)
    for generator in generators:
        for temperature in TEMPERATURES:
            rows.append(measure.row(generator, temperature))
            if progress:
                progress("temperatures", len(rows), total)
    return [*rows, measure.real()]


class _Measurement:
    def __init__(self, data: TextData, samples: int, seed_start: int) -> None:
        self._data, self._samples, self._seed_start = data, samples, seed_start
        self._held_out, self._training = data.held_out_lines, data.lines
        self._known = frozenset(self._training)
        self._unit = data.vocabulary.unit
        self._references = ReferenceSet(self._held_out[:_MAX_REFERENCES], self._unit, BLEU_ORDER)

    def row(self, generator: TextGenerator, temperature: float) -> TextRow:
        texts = self._texts(generator, temperature)
        values = {
            "nll": negative_log_likelihood(generator, self._data.held_out, temperature),
            **self._text_metrics(texts),
            "known": sum(text in self._known for text in texts) / len(texts),
        }
        return TextRow(generator.name, temperature, values, tuple(texts[:20]))

    def real(self) -> TextRow:
        """Return the metrics of training texts, in random order."""
        order = np.random.default_rng(0).permutation(len(self._training))[: self._samples]
        texts = [self._training[i] for i in order]
        return TextRow("training texts", 1.0, self._text_metrics(texts), tuple(texts[:20]))

    def _text_metrics(self, texts: Sequence[str]) -> dict[str, float]:
        count = min(_HYPOTHESES, len(texts) // 2)
        others = ReferenceSet(texts[count : count + _MAX_REFERENCES], self._unit, BLEU_ORDER)
        return {
            "bleu": self._references.score(texts[:count]),
            "self_bleu": others.score(texts[:count]),
            "distinct": len(set(texts)) / len(texts),
        }

    def _texts(self, generator: TextGenerator, temperature: float) -> list[str]:
        spec = generator.manifest.text
        assert spec is not None  # noqa: S101 - generators of text
        texts = []
        for start in range(self._seed_start, self._seed_start + self._samples, _ROWS):
            seeds = range(start, min(start + _ROWS, self._seed_start + self._samples))
            sources = [TextSource(seed, spec.max_length, temperature) for seed in seeds]
            tokens = execute(text_plan(generator.manifest, sources), generator.run)
            texts += [self._data.vocabulary.join(each) for each in tokens]
        return texts


def negative_log_likelihood(
    generator: TextGenerator, tokens: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Return the mean over the tokens of ``tokens [N, T]`` and their ends, in nats."""
    spec = generator.manifest.text
    assert spec is not None  # noqa: S101 - generators of text
    total, count = 0.0, 0
    for start in range(0, len(tokens), _ROWS):
        rows = tokens[start : start + _ROWS]
        state = np.zeros((len(rows), spec.state), np.float32)
        fed = np.full(len(rows), spec.start, np.int64)
        is_open = np.ones(len(rows), bool)
        for targets in rows.T:
            outputs = generator.run(STEP, {"token": fed, "state": state})
            state, logits = outputs["new_state"], outputs["logits"].astype(np.float64)
            scaled = logits / temperature
            scaled -= scaled.max(1, keepdims=True)
            log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
            total -= float(log_p[np.arange(len(rows)), targets][is_open].sum())
            count += int(is_open.sum())
            is_open &= targets != END
            fed = targets
    return total / count


def figures_of(
    rows: Sequence[TextRow], samples: int, data: TextData, reference: str, seed_start: int
) -> tuple[Quality, ...]:
    """Return the rows of the generators as a manifest's `quality`, with the real values beside.

    `reference` is the title of the held-out texts of `data`.
    """
    held_out = len(data.held_out)
    reference_sha256 = hashlib.sha256("\n".join(data.held_out_lines).encode()).hexdigest()
    *generated, real = rows
    figures = []
    for row in generated:
        for name, value in row.values.items():
            metric = get_metric(name)
            figures.append(
                Quality(
                    metric=f"{metric.key}, {row.title}",
                    value=value,
                    reference=reference,
                    samples=held_out if name == "nll" else samples,
                    reference_sha256=reference_sha256,
                    reference_samples=held_out,
                    real=real.values.get(name),
                    seed_start=None if name == "nll" else seed_start,
                    note=metric.note,
                )
            )
    return tuple(figures)


def metrics_of(rows: Sequence[TextRow]) -> list[Metric]:
    """Return the metrics of the rows, in table order."""
    return [get_metric(name) for name in rows[0].values]
