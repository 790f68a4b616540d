"""R3GAN's network pickles, against an independent computation."""

import pytest
import torch
from torch.nn import functional as F

from tests.support.checkpoint_layouts import r3gan
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.options import UserOptions


def upsampled(x, kernel):
    """Zeros between the pixels, a border of zeros, and the filter."""
    n, c, height, width = x.shape
    spread = x.new_zeros(n, c, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    padded = F.pad(spread, (2, 1, 2, 1))
    return F.conv2d(padded, 4 * kernel.flip(0, 1).expand(c, 1, 4, 4), groups=c)


def reference(t, z, class_weights=None):
    t = to_float64(r3gan.within(t, "Model"))
    z = z.double()
    if class_weights is not None:
        z = torch.cat([z, class_weights.double() @ t["EmbeddingLayer.weight"].T], 1)
    stage = 0
    while (prefix := f"MainLayers.{stage}.Layers") and f"{prefix}.1.LinearLayer1.Layer.weight" in t:
        if stage == 0:
            x = torch.einsum(
                "nz,cz,chw->nchw", z, t[f"{prefix}.0.LinearLayer.weight"], t[f"{prefix}.0.Basis"]
            )
        else:
            if f"{prefix}.0.LinearLayer.Layer.weight" in t:
                x = F.conv2d(x, t[f"{prefix}.0.LinearLayer.Layer.weight"])
            x = upsampled(x, t[f"{prefix}.0.Resampler.Kernel"])
        block = 1
        while f"{prefix}.{block}.LinearLayer1.Layer.weight" in t:
            own = r3gan.within(t, f"{prefix}.{block}")
            y = F.conv2d(x, own["LinearLayer1.Layer.weight"], own["NonLinearity1.Bias"])
            mixing = own["LinearLayer2.Layer.weight"]
            groups = len(mixing) // mixing.shape[1]
            y = F.conv2d(
                F.leaky_relu(y, 0.2), mixing, own["NonLinearity2.Bias"], padding=1, groups=groups
            )
            x = x + F.conv2d(F.leaky_relu(y, 0.2), own["LinearLayer3.Layer.weight"])
            block += 1
        stage += 1
    return F.conv2d(x, t["AggregationLayer.Layer.weight"])


@pytest.mark.parametrize("package", ["R3GAN", "BaselineGAN"])
@pytest.mark.parametrize("widths", [(6, 4), (6, 6, 4)])
def test_images_are_those_of_the_definition(tmp_path, package, widths):
    weights = r3gan.tensors(widths)
    r3gan.write_pickle(tmp_path / "g.pkl", weights, package)
    best = recognize(tmp_path / "g.pkl")
    assert best.format.name == "r3gan"
    z = torch.randn(4, r3gan.Z, generator=torch.Generator().manual_seed(1))
    images = converted_images(best, z=z)
    assert images.shape[2] == 4 * 2 ** (len(widths) - 1)
    torch.testing.assert_close(images, reference(weights, z), rtol=1e-4, atol=1e-4)


def test_class_conditional_network_is_imported(tmp_path):
    weights = r3gan.tensors(classes=4)
    r3gan.write_pickle(tmp_path / "g.pkl", weights)
    options = UserOptions(class_names=("a", "b", "c", "d"))
    _, model = import_checkpoint(tmp_path / "g.pkl", tmp_path / "models", options)
    assert model.manifest.classes == ("a", "b", "c", "d")
    feeds = model.feeds([3, 4], classes=[1, 3])
    z = torch.from_numpy(feeds["z"])
    expected = to_levels(reference(weights, z, torch.from_numpy(feeds["class_weights"])))
    assert abs(model.run("generator", feeds)["pixels"].astype(int) - expected).max() <= 1


def test_unknown_filter_size_is_refused(tmp_path):
    weights = r3gan.tensors()
    name = "Model.MainLayers.1.Layers.0.Resampler.Kernel"
    weights[name] = torch.ones(3, 3) / 9
    r3gan.write_pickle(tmp_path / "g.pkl", weights)
    with pytest.raises(ModelImportError, match=r"its filter is \(3, 3\)"):
        recognize(tmp_path / "g.pkl")


def test_names_of_the_code_execute_nothing(tmp_path):
    # Names in modules that begin like R3GAN's are data; others are refused.
    (tmp_path / "g.pkl").write_bytes(b"\x80\x03cR3GANx.Networks\nrun\n)R.")
    with pytest.raises(UnsafeFileError, match=r"R3GANx\.Networks\.run"):
        recognize(tmp_path / "g.pkl")
    (tmp_path / "g.pkl").write_bytes(b"\x80\x03cR3GAN.Networks\nrun\n)R.")
    with pytest.raises(ModelImportError, match="no network"):
        recognize(tmp_path / "g.pkl")
