"""StyleGAN3 pickles, compared with a reference implementation."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoint_layouts.stylegan2 import reference_mapping
from tests.support.checkpoint_layouts.stylegan3 import (
    LAYERS,
    W,
    Z,
    layer_configs,
    pickle_content,
    reference_synthesis,
    write_pickle,
)
from tests.support.checkpoints import import_checkpoint, recognize, to_levels
from training.importers.errors import ModelImportError

TRANSFORM = np.array([[0.8, -0.6, 0.2], [0.6, 0.8, -0.1], [0, 0, 1]], np.float32)


def w_of(tensors, seed, psi=1.0, label=None):
    t = {name: value.double() for name, value in tensors.items()}
    w = reference_mapping(t, torch.from_numpy(seeds.draw([seed], Z))[0].double(), label)
    return (t["mapping.w_avg"] + psi * (w - t["mapping.w_avg"])).expand(LAYERS + 2, -1)


@pytest.mark.slow
def test_configuration_t_matches_reference(tmp_path):
    tensors, modules = pickle_content("t")
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    best, model = import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    assert best.format.name == "stylegan3"
    assert dict(best.converted.details)["configuration"].startswith("T ")
    assert len(model.manifest.styles.layers) == LAYERS + 2
    assert model.manifest.styles.layers[0].group == "coarse"
    assert model.manifest.takes_transform
    outputs = model.generate([0, 5], None, [1.0, 0.5]).astype(int)
    for pixels, seed, psi in zip(outputs, (0, 5), (1.0, 0.5), strict=True):
        expected = to_levels(
            reference_synthesis(tensors, w_of(tensors, seed, psi), np.eye(3))[None]
        )[0]
        assert np.abs(pixels - expected).max() <= 1
        assert expected.std() > 20
    # Each layer has its own style, and each image its own transform.
    w = torch.randn(2, LAYERS + 2, W, generator=torch.Generator().manual_seed(3))
    transforms = np.stack([np.eye(3, dtype=np.float32), TRANSFORM])
    outputs = model.synthesize(w.numpy(), transforms).astype(int)
    for i in range(2):
        expected = to_levels(reference_synthesis(tensors, w[i], transforms[i])[None])[0]
        assert np.abs(outputs[i] - expected).max() <= 1
    np.testing.assert_array_equal(model.synthesize(w[:1].numpy())[0], outputs[0])
    assert np.abs(outputs[1] - model.synthesize(w[1:].numpy())[0]).mean() > 10


@pytest.mark.slow
def test_class_conditional_configuration_r_matches_reference(tmp_path):
    tensors, modules = pickle_content("r", classes=3)
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    best, model = import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    assert dict(best.converted.details)["configuration"].startswith("R ")
    assert model.manifest.classes == ("0", "1", "2")
    feeds = model.feeds([4, 4, 4], [0, 1, 2]) | {"transform": np.stack([TRANSFORM] * 3)}
    outputs = model.run("generator", feeds)["pixels"].astype(int)
    for index in range(3):
        w = w_of(tensors, 4, label=F.one_hot(torch.tensor(index), 3).double())
        expected = to_levels(reference_synthesis(tensors, w, TRANSFORM)[None])[0]
        assert np.abs(outputs[index] - expected).max() <= 1
        assert expected.std() > 20


def test_tensors_without_modules_get_default_settings(tmp_path):
    tensors, _ = pickle_content("t")
    torch.save({"g_ema": tensors}, tmp_path / "network.pt")
    converted = recognize(tmp_path / "network.pt").converted
    assert "other parameters are NVIDIA's defaults" in converted.notes[0]
    w = torch.randn(1, LAYERS + 2, W, generator=torch.Generator().manual_seed(3))
    _, images = converted.graph_specs[1].module(w, torch.from_numpy(TRANSFORM)[None])
    expected = reference_synthesis(tensors, w[0], TRANSFORM, clamps=(256.0,) * 4, scale=0.25)
    torch.testing.assert_close(images[0].double(), expected, atol=1e-4, rtol=1e-4)


def test_rejects_inconsistent_layer_sizes(tmp_path):
    tensors, modules = pickle_content("t")
    modules[next(layer_configs())[0]]["up_factor"] = 1
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    with pytest.raises(ModelImportError, match="a layer cannot have"):
        recognize(tmp_path / "network.pkl")
