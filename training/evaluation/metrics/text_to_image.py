"""Metrics of text-to-image models, which `training.evaluation.text_to_image` measures."""

from __future__ import annotations

from training.evaluation.metrics import Metric, declare_metrics

# The prompts among which the right one is searched.
R_PRECISION_PROMPTS = 100

R_PRECISION = Metric(
    name="r_precision",
    title="R-precision",
    key="R-precision",
    better="higher",
    order=300,
    unit="share",
)
PROMPT_DIVERSITY = Metric(
    name="prompt_diversity",
    title="diversity per prompt",
    key="diversity per prompt",
    better="as real",
    order=301,
    note="mean distance of features between seeds of a prompt; between real images of different "
    "prompts it is 1",
)

declare_metrics(R_PRECISION, PROMPT_DIVERSITY)
