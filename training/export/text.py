"""Export of generators of text: one step graph with state, and the vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from service.runtime.generation import execute, text_plan
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import STEP
from service.runtime.models.parts.outputs import VOCABULARY_FILE, TextSpec, VocabularyFile
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import read_vocabulary
from training.data.text.vocabulary import END
from training.export.errors import ExportError
from training.export.graphs import CHECKED_LATENTS, GraphSpec
from training.networks.text.recurrent import RecurrentGenerator

if TYPE_CHECKING:
    from training.games.text.options import TextOptions

_CHECKED_STEPS = 8
_TEXTS_IN_A_BATCH = 64


class ServedStep(nn.Module):
    """Maps ``token`` [N] int64 and ``state`` [N, S] to ``logits`` [N, V] and ``new_state`` [N, S].

    V is the size of the vocabulary, without the tokens that the corpus does not use.
    """

    def __init__(self, generator: RecurrentGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.size = int(generator.used)

    def forward(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, new_state = self.generator.step(token, state)
        return logits[:, : self.size], new_state


@torch.no_grad()
def step_graph_spec(generator: nn.Module) -> GraphSpec:
    """Return the graph of a step, with the states of random sequences to check it."""
    step = ServedStep(cast("RecurrentGenerator", generator)).eval()
    rng = torch.Generator().manual_seed(0)
    tokens, states = [], []
    token = torch.full((CHECKED_LATENTS // _CHECKED_STEPS,), END)
    state = step.generator.initial_state(len(token))
    for _ in range(_CHECKED_STEPS):
        tokens.append(token)
        states.append(state)
        _, state = step(token, state)
        token = torch.randint(step.size, token.shape, generator=rng)
    feeds = {"token": torch.cat(tokens), "state": torch.cat(states)}
    return GraphSpec(STEP, step, feeds, ("logits", "new_state"))


def write_vocabulary(
    options: TextOptions, generator: nn.Module, state: Mapping[str, Any], folder: Path
) -> TextSpec:
    """Write ``vocabulary.json`` of the state of a game and return the manifest's description.

    Raises ExportError for a generator of synthetic tokens, which are no text.
    """
    if options.oracle is not None:
        raise ExportError(
            "the generator was trained on the synthetic oracle: its tokens are numbers, not text; "
            "train on a corpus to export a model"
        )
    content = json.dumps(state["units"], ensure_ascii=False).encode()
    (folder / VOCABULARY_FILE).write_bytes(content)
    return TextSpec(
        vocabulary=VocabularyFile(sha256=hashlib.sha256(content).hexdigest()),
        unit=state["unit"],
        size=len(state["units"]),
        start=END,
        end=END,
        max_length=options.length,
        state=cast("RecurrentGenerator", generator).state,
    )


def generate_texts(model: Model, seeds: Sequence[int], temperature: float = 1.0) -> list[str]:
    """Return the texts of `seeds`, by the graph and the rule of the service.

    Raises ValueError if the model returns no text.
    """
    spec = model.manifest.text
    if spec is None:
        raise ValueError(f"{model.manifest.name} returns no text")
    vocabulary = read_vocabulary(model.folder, spec)
    texts: list[str] = []
    for start in range(0, len(seeds), _TEXTS_IN_A_BATCH):
        sources = [
            TextSource(seed, spec.max_length, temperature)
            for seed in seeds[start : start + _TEXTS_IN_A_BATCH]
        ]
        tokens = execute(text_plan(model.manifest, sources), model.run)
        texts += [vocabulary.text(each) for each in tokens]
    return texts
