"""The game of text: SeqGAN's three phases, with two ways to train through discrete tokens.

Yu et al. 2017, arXiv:1609.05473, algorithm 1: the generator learns by maximum likelihood, the
discriminator learns to tell its samples from the data, then both play. The adversarial generator
step is the policy gradient with Monte Carlo roll-outs (equations 4 and 8), or the gradient of
Gumbel-softmax samples as in RelGAN (Nie et al. 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.text.corpus import TextData
from training.data.text.vocabulary import END
from training.device import Precision
from training.distributed import DistributedContext
from training.games.players import Players, StepLoss
from training.games.text.generation import Sampler, counted, inputs_of
from training.games.text.options import TextOptions
from training.losses import adversarial_loss, separation
from training.recipe.schema import Recipe


class TextGame:
    """The players, the generator's moving average, and the generator before the adversarial phase.

    Metrics of a turn, each a scalar tensor: `nll`, the negative log-likelihood of real tokens in
    nats, in steps with the likelihood; `gradient_likelihood` in the maximum-likelihood phase;
    `reward`, the mean reward of a token, with the policy gradient; and the metrics of
    `NoiseToImage` in the phases in which the players train against each other.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: TextOptions,
        data: TextData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        generator, discriminator = recipe.build_generator(), recipe.build_discriminator()
        generator.get_buffer("used").fill_(len(data.vocabulary))
        self.options = options
        self.loss = adversarial_loss(options.loss, options.real_target)
        self.batches_per_turn = options.discriminator_steps
        self.vocabulary = data.vocabulary
        # The average at the end of the maximum-likelihood phase.
        self.pretrained: nn.Module | None = None
        self._tokens, self._ends = len(data.vocabulary), data.ends
        self._images, self._parts = recipe.train.images, recipe.train.accumulate
        self._distributed = distributed
        self._learning_rate = recipe.optimizer.generator.learning_rate
        self._players = Players(recipe, generator, discriminator, device, precision, distributed)
        self._G, self._D = self._players.wrapped.values()
        self._sampler = self.sampler(generator)

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The networks with weights, by name."""
        return self._players.weights

    @property
    def average(self) -> nn.Module:
        """The generator's moving average, which is exported."""
        return self._players.average

    def sampler(self, generator: nn.Module) -> Sampler:
        """Return a sampler of sequences of a generator."""
        return Sampler(generator, self._tokens, self.options.length, ends=self._ends)  # type: ignore[arg-type]

    def turn(
        self,
        batches: Sequence[Tensor],
        rng: torch.Generator,  # noqa: ARG002 - every process draws its own samples
        number: int,  # noqa: ARG002
        images_seen: int,
    ) -> Mapping[str, Tensor]:
        """Take the steps of the turn's phase on real sequences ``[N, T] int64``."""
        self._players.set_learning_rates(images_seen)
        options = self.options
        if images_seen < options.pretrain_images:
            return self._likelihood_turn(batches, images_seen)
        if self.pretrained is None:
            self._begin_adversarial()
        metrics = _mean([self._discriminator_step(real, images_seen) for real in batches])
        if images_seen >= options.adversarial_from:
            with self._players.fixed("discriminator"):
                metrics |= self._generator_step(batches[0], images_seen)
            self._update_average(len(batches[0]), images_seen)
        return metrics

    def _begin_adversarial(self) -> None:
        """Keep the maximum-likelihood generator, and forget its optimizer's moments."""
        self.pretrained = copy.deepcopy(self._players.average)
        self._players.optimizers["generator"].state.clear()

    def _likelihood_turn(self, batches: Sequence[Tensor], images_seen: int) -> dict[str, Tensor]:
        for group in self._players.optimizers["generator"].param_groups:
            group["lr"] = self.options.pretrain_learning_rate or group["lr"]
        self._players.networks["generator"].train()
        steps = []
        for real in batches:
            step = self._players.descend(
                "generator", real.chunk(self._parts), self._likelihood_loss
            )
            # Not comparable with the gradients of the adversarial phase.
            step["gradient_likelihood"] = step.pop("gradient_generator")
            steps.append(step)
            self._update_average(len(real), images_seen)
        for group in self._players.optimizers["generator"].param_groups:
            group["lr"] = self._learning_rate
        return _mean(steps)

    def _likelihood_loss(self, real: Tensor) -> StepLoss:
        nll = self.negative_log_likelihood(self._G, real)
        return StepLoss(nll, {"nll": nll.detach()})

    def negative_log_likelihood(self, generator: nn.Module, sequences: Tensor) -> Tensor:
        """Return the mean over the tokens of ``sequences [N, T]`` and their ends, in nats."""
        belongs = counted(sequences, ends=self._ends)
        return -self._log_likelihoods(generator, sequences)[belongs].mean()

    def token_count(self, sequences: Tensor) -> int:
        """Return the number of tokens in ``sequences [N, T]``, with their ends."""
        return int(counted(sequences, ends=self._ends).sum())

    def _log_likelihoods(self, generator: nn.Module, sequences: Tensor) -> Tensor:
        """Return the log-likelihood ``[N, T]`` of each token after the tokens before it."""
        with self._players.autocast():
            logits = generator(inputs_of(sequences))
        log_p = logits[..., : self._tokens].float().log_softmax(2)
        log_likelihoods: Tensor = log_p.gather(2, sequences[..., None]).squeeze(2)
        return log_likelihoods

    def _discriminator_step(self, real: Tensor, images_seen: int) -> dict[str, Tensor]:
        self._players.networks["discriminator"].train()
        return self._players.descend(
            "discriminator",
            real.chunk(self._parts),
            lambda part: self._discriminator_loss(part, images_seen),
        )

    def _discriminator_loss(self, real: Tensor, images_seen: int) -> StepLoss:
        """Return the discriminator's loss of real sequences and of as many samples."""
        with torch.no_grad():
            fake = self._samples(len(real), images_seen)
        with self._players.autocast():
            shown = real
            if fake.is_floating_point():
                shown = F.one_hot(real, self._tokens).float()
            real_logits, fake_logits = self._D(torch.cat([shown, fake])).float().chunk(2)
        loss = self.loss.discriminator(real_logits, fake_logits)
        metrics = {
            "loss_discriminator": loss.detach(),
            "real_score": self.loss.score(real_logits),
            "fake_score": self.loss.score(fake_logits),
            "separation": separation(real_logits, fake_logits),
        }
        return StepLoss(loss, metrics)

    def _samples(self, count: int, images_seen: int) -> Tensor:
        """Return what the discriminator sees of the generator: tokens, or weights of tokens."""
        if self.options.adversary == "policy_gradient":
            return self._sampler.sample(count)
        return self._sampler.soft_samples(count, self._inverse_temperature(images_seen))

    def _generator_step(self, real: Tensor, images_seen: int) -> dict[str, Tensor]:
        # Without dropout, the policy is the distribution of the samples.
        self._players.networks["generator"].eval()
        self._players.networks["discriminator"].eval()
        loss_of = (
            self._policy_gradient_loss
            if self.options.adversary == "policy_gradient"
            else self._gumbel_loss
        )

        def total(part: Tensor) -> StepLoss:
            loss, metrics = loss_of(part, images_seen)
            if self.options.likelihood:
                nll, more = self._likelihood_loss(part)
                loss, metrics = loss + self.options.likelihood * nll, {**metrics, **more}
            return StepLoss(loss, metrics)

        return self._players.descend("generator", real.chunk(self._parts), total)

    def _policy_gradient_loss(self, real: Tensor, images_seen: int) -> StepLoss:  # noqa: ARG002
        """Return the loss whose gradient is the policy gradient (equation 8).

        The baseline is the mean reward of the position over the batch. It reduces the variance of
        the gradient. Because it contains the reward itself, it also scales the mean by 1 - 1/n for
        the n sequences that reach the position.
        """
        sequences = self._sampler.sample(len(real))
        belongs = counted(sequences, ends=self._ends)
        rewards = self._rewards(sequences, belongs)
        weight = belongs.float()
        baseline = (rewards * weight).sum(0) / weight.sum(0).clamp(min=1)
        log_likelihoods = self._log_likelihoods(self._G, sequences)
        loss = -(log_likelihoods * (rewards - baseline))[belongs].mean()
        return StepLoss(loss, {"loss_generator": loss.detach(), "reward": rewards[belongs].mean()})

    @torch.no_grad()
    def _rewards(self, sequences: Tensor, belongs: Tensor) -> Tensor:
        """Return the reward ``[N, T]`` of each token: the score of completions (equation 4)."""
        discriminator = self._players.networks["discriminator"]
        last = sequences.shape[1] - 1
        whole = self._reward_of(discriminator(sequences))
        rewards = whole[:, None].repeat(1, last + 1)
        if last:
            completed = self._sampler.roll_outs(sequences, self.options.rollouts)
            # The completions [M, rollouts, T] of the prefixes that have not ended.
            is_open = (belongs & (sequences != END) if self._ends else belongs)[:, :last]
            chosen = completed.permute(2, 0, 1, 3)[is_open]
            logits = [discriminator(some.flatten(0, 1)) for some in torch.split(chosen, 256)]
            scores = self._reward_of(torch.cat(logits)).reshape(chosen.shape[:2])
            rewards[:, :last][is_open] = scores.mean(1)
        return rewards

    def _reward_of(self, logits: Tensor) -> Tensor:
        """Return the probability of being real; for losses without one, the raw logit."""
        logits = logits.float()
        return logits.sigmoid() if self.loss.probabilistic else logits

    def _gumbel_loss(self, real: Tensor, images_seen: int) -> StepLoss:
        fake = self._samples(len(real), images_seen)
        discriminator = self._players.networks["discriminator"]
        fake_logits = discriminator(fake).float()
        real_logits = fake_logits.detach()
        if self.loss.generator_sees_real:
            with torch.no_grad():
                real_logits = discriminator(real).float()
        loss = self.loss.generator(real_logits, fake_logits)
        return StepLoss(loss, {"loss_generator": loss.detach()})

    def _inverse_temperature(self, images_seen: int) -> float:
        """Return the inverse temperature, which rises exponentially in the adversarial phase."""
        start = self.options.adversarial_from
        done = max(images_seen - start, 0) / max(self._images - start, 1)
        return float(self.options.inverse_temperature ** min(done, 1.0))

    def _update_average(self, count: int, images_seen: int) -> None:
        self._players.update_average(count * self._distributed.world, images_seen)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on, and the vocabulary of the samples."""
        return {
            **self._players.state_dict(),
            "pretrained": self.pretrained.state_dict() if self.pretrained else {},
            "unit": self.vocabulary.unit,
            "units": list(self.vocabulary.units),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if tuple(state["units"]) != self.vocabulary.units:
            raise ValueError("the corpus has another vocabulary than at the start of the run")
        self._players.load_state_dict(state)
        self.pretrained = None
        if state["pretrained"]:
            self.pretrained = copy.deepcopy(self._players.average)
            self.pretrained.load_state_dict(state["pretrained"])


def _mean(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean metrics of several steps."""
    return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}
