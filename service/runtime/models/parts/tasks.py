"""The tasks of models, and the output that each returns."""

from __future__ import annotations

from typing import Literal

from service.runtime.models.parts.graphs import STEP, TEXT_ENCODER

# The route that serves a model has the name of its task.
Task = Literal[
    "generate",
    "translate",
    "colorize",
    "upscale",
    "inpaint",
    "audio",
    "text-to-image",
    "text",
    "text-encoder",
]
# Tasks whose models draw their outputs from a latent `z`.
LATENT_TASKS: tuple[Task, ...] = ("generate", "audio", "text-to-image")
# The part of the manifest that describes the output of a task that returns no images.
ADDED_OUTPUTS: dict[Task, str] = {"audio": "audio", "text": "text", "text-encoder": "text_encoder"}
OUTPUT_PARTS = ("image", *ADDED_OUTPUTS.values())
# Inputs and outputs of the graphs of the tasks that have neither latents nor images.
TOKEN_GRAPHS: dict[Task, tuple[str, set[str], set[str]]] = {
    "text": (STEP, {"token", "state"}, {"logits", "new_state"}),
    "text-encoder": (TEXT_ENCODER, {"token_ids", "token_mask"}, {"text"}),
}


def output_part(task: Task) -> str:
    """Return the name of the part of the manifest that describes the output of a task."""
    return ADDED_OUTPUTS.get(task, "image")
