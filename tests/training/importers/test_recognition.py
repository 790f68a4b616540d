"""A checkpoint is recognized only if all of its tensors are used or known not to be needed."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.support.checkpoint_layouts.residual import resnet_shapes
from tests.support.checkpoint_layouts.rrdb import rrdb_shapes
from tests.support.checkpoint_layouts.sequential import dcgan_shapes, mlp_shapes
from tests.support.checkpoints import random_tensors, recognize
from training.importers.errors import ImportOptionError, ModelImportError, UnknownFormatError
from training.importers.formats.base import readable_key
from training.importers.left_out import left_out_state
from training.importers.options import UserOptions
from training.importers.recognition import FORMATS

DCGAN = random_tensors(dcgan_shapes(9, (6, 4), 3), scale=0.5)
DISCRIMINATOR = {"0.weight": torch.ones(4, 3, 4, 4), "2.weight": torch.ones(1, 4, 4, 4)}


def saved(tmp_path, tree):
    torch.save(tree, tmp_path / "g.pth")
    return tmp_path / "g.pth"


def prefixed(prefix, tensors):
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "extra",
    [
        {"mapping.0.weight": torch.ones(9, 9), "mapping.0.bias": torch.ones(9)},
        {"encoder.conv.weight": torch.ones(8, 3, 3, 3)},
        {"attention.gamma": torch.zeros(1)},
        {"scale": torch.ones(3, 1)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_rejects_a_file_with_further_tensors_by_name(tmp_path, extra):
    path = saved(tmp_path, prefixed("net", DCGAN) | extra)
    with pytest.raises(ModelImportError, match="--allow-unused") as raised:
        recognize(path)
    assert all(name in str(raised.value) for name in extra)
    pattern = str(raised.value).partition("--allow-unused '")[2].partition("'")[0]
    best = recognize(path, UserOptions(allow_unused=(pattern,)))
    assert best.format.name == "dcgan"
    (stated,) = best.converted.left_out
    assert stated.startswith(f"--allow-unused {pattern}: ")
    assert all(name in stated for name in extra)


@pytest.mark.parametrize("shapes", [dcgan_shapes(9, (6, 4), 3), rrdb_shapes(), resnet_shapes(2)])
def test_rejects_a_network_with_a_further_layer_by_name(tmp_path, shapes):
    tensors = random_tensors(shapes) | {"gate.strength": torch.ones(3)}
    with pytest.raises(ModelImportError, match=r"gate\.strength.*--allow-unused"):
        recognize(saved(tmp_path, tensors))
    best = recognize(tmp_path / "g.pth", UserOptions(allow_unused=("gate.*",)))
    assert best.converted.left_out == ["--allow-unused gate.*: gate.strength"]


def test_rejects_a_separate_network_that_may_be_needed(tmp_path):
    path = saved(tmp_path, {"netG": DCGAN, "netE": {"a.weight": torch.ones(2, 2)}})
    with pytest.raises(ModelImportError, match=r"netE\.a\.weight.*--allow-unused 'netE\.\*'"):
        recognize(path)
    assert recognize(path, UserOptions(allow_unused=("netE.*",))).format.name == "dcgan"


def test_rejects_patterns_without_a_match(tmp_path):
    with pytest.raises(ImportOptionError, match="--allow-unused nothing: no tensor"):
        recognize(saved(tmp_path, DCGAN), UserOptions(allow_unused=("nothing",)))


@pytest.mark.parametrize(
    "name", ["discriminator", "netD", "D", "critic", "d_model", "vgg_loss", "perceptual", "dis"]
)
def test_leaves_out_networks_that_only_training_needs(tmp_path, name):
    tree = {"netG": DCGAN, name: DISCRIMINATOR, "optimizer_state": {"state": {0: torch.ones(2, 2)}}}
    assert name in recognize(saved(tmp_path, tree)).converted.left_out[0]
    # As in a Lightning checkpoint, where all networks are in one dictionary.
    tree = {"state_dict": prefixed("netG", DCGAN) | prefixed(name, DISCRIMINATOR)}
    best = recognize(saved(tmp_path, tree))
    assert best.network.name == "state_dict.netG"
    assert name in best.converted.left_out[0]


def test_prefers_averaged_weights_and_states_the_others(tmp_path):
    path = saved(tmp_path, {"G": DCGAN, "G_ema": DCGAN})
    best = recognize(path)
    assert best.network.name == "G_ema"
    assert best.converted.left_out == ["other weights of the network: G (13 tensors)"]


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(9, 6, 4, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False),
        )  # fmt: skip


@pytest.mark.parametrize(
    "wrap",
    [
        AveragedModel,
        lambda g: nn.DataParallel(AveragedModel(g)),
        lambda g: AveragedModel(nn.DataParallel(g)),
    ],
)
def test_peels_averaged_models(tmp_path, wrap):
    best = recognize(saved(tmp_path, {"g": wrap(Wrapped()).state_dict()}))
    assert best.format.name == "dcgan"
    assert best.converted.left_out == []


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite values")]
)
def test_names_weights_that_are_not_finite(tmp_path, value, word):
    tensors = {name: tensor.clone() for name, tensor in DCGAN.items()}
    tensors["main.3.weight"][1, 2] = value
    tensors["main.4.running_var"][0] = value
    path = saved(tmp_path, {"netG": tensors, "netD": DISCRIMINATOR})
    with pytest.raises(
        ModelImportError, match=rf"main\.3\.weight, main\.4\.running_var hold {word}"
    ):
        recognize(path)
    # Weights that are not imported do not matter.
    assert recognize(saved(tmp_path, {"G": tensors, "G_ema": DCGAN})).network.name == "G_ema"


def test_names_negative_variances(tmp_path):
    tensors = {name: tensor.clone() for name, tensor in DCGAN.items()}
    tensors["main.4.running_var"][0] = -1
    with pytest.raises(ModelImportError, match=r"main\.4\.running_var holds negative variances"):
        recognize(saved(tmp_path, tensors))


def test_names_the_training_state_that_is_left_out():
    state = {"state": {}, "param_groups": [{"lr": 0.1}]}
    content = {"net": DCGAN, "optimizer": state, "lr_scheduler": {"step": 3}, "epoch": 3}
    assert left_out_state(content) == ["optimizer state: optimizer", "training state: lr_scheduler"]
    assert left_out_state(DCGAN) == []


def test_rejects_options_without_an_effect(tmp_path):
    path = saved(tmp_path, DCGAN)
    for options in (UserOptions(statistics="running"), UserOptions(assume={"norm": "none"})):
        with pytest.raises(ImportOptionError, match=r"has no effect.*--activation"):
            recognize(path, options)


@pytest.mark.parametrize(
    "names",
    [("branch_a.0", "branch_b.0", "out"), ("trunk", "head_1", "head_2"), ("b.0", "a.0", "c.0")],
)
def test_rejects_branches_that_look_like_a_chain(tmp_path, names):
    widths = [(16, 16), (16, 16), (48, 16)]
    tensors = {f"{n}.weight": torch.randn(w) for n, w in zip(names, widths, strict=True)}
    tensors |= {f"{n}.bias": torch.randn(w[0]) for n, w in zip(names, widths, strict=True)}
    with pytest.raises(ModelImportError, match="matches no known format"):
        recognize(saved(tmp_path, tensors))


def test_accepts_numbered_chains_of_equal_widths(tmp_path):
    tensors = random_tensors(mlp_shapes([16, 16, 16, 48]))
    assert recognize(saved(tmp_path, tensors)).format.name == "mlp"
    renamed = {"fc1": "model.0", "fc2": "model.2", "out": "model.4"}
    tensors = {
        f"{new}.{part}": tensors[f"{old}.{part}"]
        for new, old in renamed.items()
        for part in ("weight", "bias")
    }
    assert recognize(saved(tmp_path, tensors)).format.name == "mlp"


def test_unknown_network_is_compared_with_near_formats_only(tmp_path):
    path = saved(tmp_path, {f"block{i}.weird": torch.zeros(2, 2) for i in range(9)})
    with pytest.raises(UnknownFormatError) as raised:
        recognize(path)
    assert "near" not in str(raised.value)
    assert "torch.onnx.export" in str(raised.value)


def test_keys_are_shown_as_names():
    keys = [readable_key(key) for each in FORMATS for key in each.required_keys]
    assert not [key for key in keys if set(key) & set(r"\()[]|?+*^$")]
    assert readable_key(r"(.+\.)?model\.1\.model\.\d+\.weight") == "model.1.model.N.weight"
