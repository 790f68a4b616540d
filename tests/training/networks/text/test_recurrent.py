"""The recurrent generator: its step is the network of PyTorch."""

import pytest
import torch

from training.networks.text.recurrent import RecurrentGenerator
from training.networks.text.sampling import draw
from training.networks.text.text_cnn import TextCNN, TextCNNOptions


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_steps_equal_the_whole_sequence(cell, layers):
    torch.manual_seed(0)
    network = RecurrentGenerator(11, cell, 5, 7, layers, dropout=0.5).eval()
    tokens = torch.randint(11, (3, 9))
    state = network.initial_state(3)
    steps = []
    for token in tokens.T:
        logits, state = network.step(token, state)
        steps.append(logits)
    assert state.shape == (3, network.state)
    torch.testing.assert_close(torch.stack(steps, 1), network(tokens))


def test_draw_follows_the_cumulative_probability():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(4, 3)
    uniform = torch.tensor([[0.0], [0.49], [0.51], [0.999]])
    assert draw(logits, uniform).tolist() == [0, 0, 1, 2]


def test_one_hot_weights_are_scored_as_tokens():
    torch.manual_seed(0)
    network = TextCNN(12, 4, (1, 3), 6, dropout=0.5).eval()
    tokens = torch.randint(10, (5, 8))
    # The corpus may use fewer tokens than the network has.
    weights = torch.nn.functional.one_hot(tokens, 10).float()
    torch.testing.assert_close(network(weights), network(tokens))


def test_filters_wider_than_the_text_are_refused():
    options = TextCNNOptions(network="text_cnn", widths=(1, 9))
    with pytest.raises(ValueError, match="9 tokens is wider than the sequences, which have 8"):
        options.build(10, 8)


def test_evaluation_mode_disables_the_dropout_alone():
    network = RecurrentGenerator(11, "lstm", 5, 7, 2, dropout=0.5).eval()
    assert not network.training
    assert not network.dropout.training
    # cuDNN has no backward pass of recurrent layers in evaluation mode.
    assert network.recurrent.training
