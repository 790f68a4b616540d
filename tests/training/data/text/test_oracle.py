"""The synthetic oracle of SeqGAN."""

import math

import numpy as np
import torch

from training.data.text.oracle import Oracle, OracleOptions

SMALL = OracleOptions(vocabulary=30, length=6, sequences=500, hidden=8)


def test_data_are_reproducible():
    first, again = Oracle(SMALL).data(), Oracle(SMALL).data()
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.fingerprint == again.fingerprint
    assert first.tokens.shape == (500, 6)
    assert not (first.tokens[:50] == first.held_out[:50]).all()
    other = Oracle(SMALL.model_copy(update={"seed": 1})).data()
    assert other.fingerprint != first.fingerprint


def test_own_samples_are_more_likely_than_uniform_ones():
    oracle = Oracle(SMALL)
    own = oracle.negative_log_likelihood(torch.from_numpy(oracle.data().tokens))
    rng = torch.Generator().manual_seed(0)
    uniform = oracle.negative_log_likelihood(torch.randint(30, (500, 6), generator=rng))
    assert own < math.log(30) < uniform


def test_likelihood_is_the_mean_over_single_steps():
    oracle = Oracle(SMALL)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
    state, last, total = oracle.network.initial_state(1), torch.tensor([0]), 0.0
    for token in tokens[0]:
        logits, state = oracle.network.step(last, state)
        total -= float(logits.log_softmax(1)[0, token])
        last = token[None]
    assert math.isclose(oracle.negative_log_likelihood(tokens), total / 6, rel_tol=1e-5)
