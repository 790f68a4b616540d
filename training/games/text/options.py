"""Options of the games that train generators of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import nn

from service.runtime.models.parts.outputs import OutputSpec
from service.runtime.models.parts.tasks import Task
from training.data.images import DataOptions
from training.data.text.corpus import CorpusOptions
from training.data.text.oracle import OracleOptions
from training.evaluation.during_training import EvaluateOptions
from training.games.options import GameOptions

if TYPE_CHECKING:
    import torch

    from training.data.images import Progress
    from training.data.text.corpus import TextData
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.export.graphs import GraphSpec
    from training.games.text.setup import TextSetup
    from training.games.text.validation import TextValidation
    from training.recipe.schema import Recipe

# Keys of `data` that describe images.
_IMAGE_KEYS = (
    "split",
    "classes",
    "resolution",
    "channels",
    "crop",
    "stored",
    "flip",
    "only",
    "half",
)


class TextOptions(GameOptions):
    """The game of text: maximum likelihood first, then a discriminator.

    A sequence of tokens counts as one image in `train` and in the log. The phases follow each
    other: the generator learns by maximum likelihood, the discriminator learns to tell its samples
    from the data, then both play.
    """

    kind: Literal["text"]
    # The lines of `data` as tokens; without effect with an `oracle`.
    corpus: CorpusOptions = CorpusOptions()
    # Trains on the synthetic data of SeqGAN instead of a corpus.
    oracle: OracleOptions | None = None
    # `policy_gradient`: SeqGAN (arXiv:1609.05473); each token's reward is the discriminator's
    # score of completed sequences. `gumbel`: samples with gradients by the Gumbel-softmax
    # (arXiv:1611.01144), as in RelGAN (Nie et al. 2019), which uses the loss `relativistic`.
    adversary: Literal["policy_gradient", "gumbel"] = "policy_gradient"
    # Sequences of the maximum-likelihood phase, and of the discriminator's phase after it.
    pretrain_images: NonNegativeInt = 100_000
    pretrain_discriminator_images: NonNegativeInt = 20_000
    # The generator's learning rate in the maximum-likelihood phase; default: that of `optimizer`.
    pretrain_learning_rate: PositiveFloat | None = None
    # Discriminator steps per generator step, each on a batch of its own.
    discriminator_steps: PositiveInt = 5
    # Completions of each prefix, whose mean score is the reward of its last token (equation 4).
    rollouts: PositiveInt = 8
    # The inverse temperature of Gumbel-softmax samples at the end; it rises from 1 exponentially.
    inverse_temperature: float = 100.0
    # Weight of the maximum-likelihood loss beside the adversarial one; 0 in both papers.
    likelihood: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _temperature_falls(self) -> TextOptions:
        if self.inverse_temperature < 1:
            raise ValueError("inverse_temperature must be at least 1")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("nll",)

    @property
    def batches_per_turn(self) -> int:
        """Number of batches of real sequences in one turn: one for each discriminator step."""
        return self.discriminator_steps

    @property
    def adversarial_from(self) -> int:
        """The number of sequences seen at which both players begin to play."""
        return self.pretrain_images + self.pretrain_discriminator_images

    @property
    def tokens(self) -> int:
        """The number of tokens of the networks."""
        return self.oracle.vocabulary if self.oracle else self.corpus.vocabulary

    @property
    def length(self) -> int:
        """The number of tokens of a padded sequence."""
        return self.oracle.length if self.oracle else self.corpus.max_length

    def cost_changes(self, recipe: Recipe) -> tuple[int, ...]:  # noqa: ARG002
        """Return the sequences seen at which the phases begin."""
        return tuple(sorted({self.pretrain_images, self.adversarial_from} - {0}))

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        recipe.generator.of_text()
        recipe.discriminator.of_text()
        if recipe.source is not None:
            raise ValueError(f"the game {self.kind} does not use a section source; remove it")
        if recipe.classes:
            raise ValueError(f"the game {self.kind} does not support classes")
        defaults = DataOptions()
        for key in _IMAGE_KEYS:
            if getattr(recipe.data, key) != getattr(defaults, key):
                raise ValueError(f"data.{key} does not apply to text; remove it")
        if recipe.fine_tune:
            raise ValueError(f"the game {self.kind} does not support fine-tuning")

    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        return recipe.generator.of_text().build(self.tokens)

    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        return recipe.discriminator.of_text().build(self.tokens, self.length)

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> TextData:  # noqa: ARG002
        """Read the corpus, or sample it from the oracle. Raises DataError."""
        from training.data.text.corpus import load_corpus  # noqa: PLC0415 - not to read a recipe
        from training.data.text.oracle import Oracle  # noqa: PLC0415

        if self.oracle is not None:
            return Oracle(self.oracle).data()
        return load_corpus(recipe.data, self.corpus)

    def set_up(
        self,
        recipe: Recipe,
        data: Any,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> TextSetup:
        """Build the players and their data. Raises RecipeError."""
        from training.games.text.setup import TextSetup  # noqa: PLC0415

        return TextSetup(recipe, self, data, device, precision, distributed)

    def validation(
        self,
        recipe: Recipe,
        options: EvaluateOptions,  # noqa: ARG002
        *,
        confirms: bool = False,  # noqa: ARG002
    ) -> TextValidation:
        """Return the validation on held-out sequences. Raises QualityError, DataError."""
        from training.games.text.validation import TextValidation  # noqa: PLC0415

        return TextValidation(recipe, self.prepare_data(recipe))

    @property
    def served_task(self) -> Task:
        """The task of the exported model."""
        return "text"

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:  # noqa: ARG002
        """Return the step graph. `generator` must be in eval mode."""
        from training.export.text import step_graph_spec  # noqa: PLC0415 - for export alone

        return [step_graph_spec(generator)]

    def write_output(
        self,
        recipe: Recipe,  # noqa: ARG002
        generator: nn.Module,
        state: Mapping[str, Any],
        folder: Path,
    ) -> dict[str, OutputSpec]:
        """Write the vocabulary into `folder` and return the description of the text.

        Raises ExportError for a generator of synthetic tokens, which are no text.
        """
        from training.export.text import write_vocabulary  # noqa: PLC0415 - for export alone

        return {"text": write_vocabulary(self, generator, state, folder)}
