"""Spectral and weight normalization, compared with PyTorch's modules in eval mode."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as spectral_norm_hook
from torch.nn.utils import weight_norm as weight_norm_hook

from training.importers.reading.tensor_table import TensorTable
from training.importers.reading.weight_norms import fold_weight_norms

NORMS = {
    "spectral, hook": spectral_norm_hook,
    "spectral, parametrization": parametrizations.spectral_norm,
    "weight, hook": weight_norm_hook,
    "weight, hook, whole": lambda layer: weight_norm_hook(layer, dim=None),
    "weight, parametrization": parametrizations.weight_norm,
    "weight, parametrization, axis 1": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
}
# A transposed convolution normalizes over its outputs, which are axis 1. With equal numbers of
# inputs and outputs, shapes do not tell the axes apart.
LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (2, 5)),
    "convolution": (lambda: nn.Conv2d(3, 6, 3, bias=False), (2, 3, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 6, 4), (2, 3, 8, 8)),
    "square transposed": (lambda: nn.ConvTranspose2d(6, 6, 4), (2, 6, 8, 8)),
    "square linear": (lambda: nn.Linear(6, 6), (2, 6)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_folded_weight_equals_the_weight_of_the_module(norm, layer):
    torch.manual_seed(3)
    build, shape = LAYERS[layer]
    module = nn.Sequential(nn.Identity(), NORMS[norm](build()), nn.BatchNorm2d(6))
    for _ in range(3):
        module[1](torch.randn(shape))  # In training mode, updates the singular vectors.
    module.eval()
    folded = fold_weight_norms(TensorTable.of(module.state_dict()))
    assert [name for name in folded if name.startswith("1.")] in (
        ["1.weight", "1.bias"],
        ["1.bias", "1.weight"],
        ["1.weight"],
    )
    module[1](torch.randn(shape))
    torch.testing.assert_close(folded["1.weight"], module[1].weight.detach())
    # The layers keep their order, and the sources of the weight count as read.
    assert list(dict.fromkeys(name.partition(".")[0] for name in folded)) == ["1", "2"]
    assert not [name for name in folded.unread() if "weight" in name and name.startswith("1.")]


def test_leaves_unknown_and_incomplete_normalizations_as_they_are():
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    for tensors in (
        layer.state_dict(),
        {"a.weight_orig": torch.ones(2, 2), "a.weight_v": torch.ones(2)},
        {"a.weight_orig": torch.ones(2, 3), "a.weight_u": torch.ones(5)},
        {"a.weight_v": torch.ones(2, 3), "a.weight_g": torch.ones(3, 1)},
        {"a.weight": torch.ones(2, 3), "a.u0": torch.ones(1, 3)},
    ):
        assert list(fold_weight_norms(TensorTable.of(tensors))) == list(tensors)


def test_records_which_tensors_were_read():
    table = TensorTable.of({"a.weight": torch.ones(2), "b.c": torch.ones(1), "b.d": torch.zeros(1)})
    fresh = table.fresh()
    assert fresh.peek("a.weight") is not None
    assert "b.c" in fresh
    assert fresh.unread() == ["a.weight", "b.c", "b.d"]
    inner = fresh.within("b").floats()
    assert inner["c"] == 1
    assert fresh.unread() == ["a.weight", "b.d"]
    assert dict(inner.derive([("e", ("d",), torch.ones(3))]).items())["e"].sum() == 3
    assert fresh.unread() == ["a.weight"]
    # Another attempt to match starts with nothing read; counters are never reported.
    assert table.unread() == ["a.weight", "b.c", "b.d"]
    assert TensorTable.of({"n.num_batches_tracked": torch.tensor(1)}).unread() == []
