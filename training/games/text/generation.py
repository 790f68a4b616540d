"""Sequences of a generator: samples, and completions of their prefixes (roll-outs)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.text.vocabulary import END
from training.networks.text.recurrent import RecurrentGenerator
from training.networks.text.sampling import draw


class Sampler:
    """Samples sequences ``[N, length]`` of `tokens` different tokens from a generator.

    With `ends`, the token END ends a sequence and fills the rest of it.
    """

    def __init__(self, network: RecurrentGenerator, tokens: int, length: int, *, ends: bool):
        self._network, self._tokens, self._length, self._ends = network, tokens, length, ends

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Return sequences ``[count, length] int64``, from the global random state."""
        token, state = self._start(count)
        tokens: list[Tensor] = []
        for _ in range(self._length):
            token, state = self._next(token, state, first=not tokens)
            tokens.append(token)
        return torch.stack(tokens, 1)

    @torch.no_grad()
    def roll_outs(self, sequences: Tensor, count: int) -> Tensor:
        """Complete every proper prefix of ``sequences [N, T]`` `count` times.

        Returns ``[T - 1, count, N, T]``; row i has the first i + 1 tokens of the sequences. All
        prefixes advance together, so that T steps of the network are enough.
        """
        rows, length = sequences.shape
        completed = sequences.expand(length - 1, count, rows, length).clone()
        token, state = self._start(rows)
        tokens: Tensor = token[:0]
        states: Tensor = state[:0]
        for position in range(1, length):
            # The prefix that ends before `position` joins the others.
            _, state = self._network.step(token, state)
            token = sequences[:, position - 1]
            tokens = torch.cat([tokens, token.repeat(count)])
            states = torch.cat([states, state.repeat(count, 1)])
            # Most completions have ended long before the last step.
            open_rows = (tokens != END).nonzero().squeeze(1) if self._ends else slice(None)
            tokens[open_rows], states[open_rows] = self._next(
                tokens[open_rows], states[open_rows], first=False
            )
            completed[:position, ..., position] = tokens.view(position, count, rows)
        return completed

    def soft_samples(self, count: int, inverse_temperature: float) -> Tensor:
        """Return weights of tokens ``[count, length, V]``, with gradients by the Gumbel-softmax.

        The next input is the most probable token, through which no gradient flows (RelGAN,
        section 2.2).
        """
        token, state = self._start(count)
        ended = torch.zeros(count, dtype=torch.bool, device=token.device)
        end = F.one_hot(torch.full_like(token, END), self._tokens).float()
        weights = []
        for _ in range(self._length):
            logits, state = self._network.step(token, state)
            logits = logits[:, : self._tokens]
            uniform = torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)
            gumbel = -torch.log(-torch.log(uniform))
            soft = ((logits + gumbel) * inverse_temperature).softmax(1)
            weights.append(torch.where(ended[:, None], end, soft))
            token = torch.where(ended, END, soft.detach().argmax(1))
            if self._ends:
                ended = ended | (token == END)
        return torch.stack(weights, 1)

    def _start(self, count: int) -> tuple[Tensor, Tensor]:
        state = self._network.initial_state(count)
        return torch.full((count,), END, device=state.device), state

    def _next(self, token: Tensor, state: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """Draw the token after `token`; sequences that have ended stay at their end."""
        logits, state = self._network.step(token, state)
        uniform = torch.rand(len(token), 1, device=token.device)
        drawn = draw(logits[:, : self._tokens], uniform)
        if self._ends and not first:
            drawn = torch.where(token == END, END, drawn)
        return drawn, state


def inputs_of(sequences: Tensor) -> Tensor:
    """Return the tokens before each token of ``sequences [N, T]``; END is before the first."""
    return F.pad(sequences[:, :-1], (1, 0), value=END)


def counted(sequences: Tensor, *, ends: bool) -> Tensor:
    """Return which tokens belong to the sequences ``[N, T] bool``: up to the first END."""
    if not ends:
        return torch.ones_like(sequences, dtype=torch.bool)
    return (sequences == END).cumsum(1) - (sequences == END).long() == 0
