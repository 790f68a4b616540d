"""Metrics of generated text, which `training.evaluation.text` measures."""

from __future__ import annotations

from training.evaluation.metrics import Metric, declare_metrics

# The longest n-grams, in units of the model.
BLEU_ORDER = 4

NLL = Metric(
    name="nll",
    title="NLL per token",
    key="NLL",
    better="lower",
    order=400,
    in_validation=True,
    selectable=True,
    note="negative log-likelihood of held-out tokens and ends, in nats",
)
BLEU = Metric(
    name="bleu",
    title=f"BLEU-{BLEU_ORDER}",
    key=f"BLEU-{BLEU_ORDER}",
    better="higher",
    order=401,
    note="mean over samples, against all held-out texts together",
)
SELF_BLEU = Metric(
    name="self_bleu",
    title=f"self-BLEU-{BLEU_ORDER}",
    key=f"self-BLEU-{BLEU_ORDER}",
    better="as real",
    order=402,
    note="of samples against other samples; a high value means that they resemble each other",
)
DISTINCT = Metric(
    name="distinct",
    title="different texts",
    key="distinct",
    better="as real",
    order=403,
    unit="share",
)
KNOWN = Metric(
    name="known",
    title="texts of the training split",
    key="known",
    better="lower",
    order=404,
    unit="share",
)

declare_metrics(NLL, BLEU, SELF_BLEU, DISTINCT, KNOWN)
