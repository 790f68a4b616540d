"""Metrics of generated text: likelihood, BLEU and self-BLEU."""

from __future__ import annotations

from training.evaluation.metrics import Metric, register_text

NLL = Metric(
    name="nll",
    title="NLL per token",
    key="NLL",
    better="lower",
    order=400,
    in_validation=True,
    selectable=True,
    note="negative log-likelihood of held-out tokens, in nats",
)

register_text(NLL)
