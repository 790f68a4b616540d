"""PyTorch-GAN checkpoints, compared with a reference implementation."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoint_layouts.pytorch_gan import (
    NORM,
    START,
    WIDTH,
    Z,
    pytorch_gan_shapes,
)
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.options import UserOptions


def reference_output(t, x):
    def norm(index, x, eps):
        scale, shift, mean, var = (t[f"conv_blocks.{index}.{name}"] for name in NORM)
        return F.batch_norm(x, mean, var, scale, shift, eps=eps)

    def conv(index, x):
        path = f"conv_blocks.{index}"
        return F.conv2d(x, t[f"{path}.weight"], t[f"{path}.bias"], padding=1)

    def upsample_nearest(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = F.linear(x, t["l1.0.weight"], t["l1.0.bias"]).reshape(-1, WIDTH, START, START)
    # PyTorch-GAN passes 0.8 to `BatchNorm2d` as its second argument, which is eps.
    x = norm(0, x, 1e-5)
    x = F.leaky_relu(norm(3, conv(2, upsample_nearest(x)), 0.8), 0.2)
    x = F.leaky_relu(norm(7, conv(6, upsample_nearest(x)), 0.8), 0.2)
    return torch.tanh(conv(9, x))


def noise(count=3):
    z = torch.from_numpy(seeds.draw(range(count), Z))
    return z, z.double()


def test_acgan_multiplies_embedding_and_noise(tmp_path):
    tensors = random_tensors(pytorch_gan_shapes(3, (4, Z)), scale=0.4)
    torch.save(tensors, tmp_path / "generator.pth")
    options = UserOptions(class_names=("zero", "one", "two", "three"))
    best, model = import_checkpoint(tmp_path / "generator.pth", tmp_path / "models", options)
    assert best.format.name == "pytorch-gan"
    assert model.manifest.classes == options.class_names
    t, (_, z) = to_float64(tensors), noise()
    for index in range(4):
        expected = to_levels(reference_output(t, z * t["label_emb.weight"][index]))
        assert expected.std() > 20
        pixels = model.generate(range(3), [index] * 3).astype(int)
        assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(("channels", "embedding"), [(1, None), (4, (3, 5))])
def test_unconditional_and_concatenated_variants_match_reference(tmp_path, channels, embedding):
    tensors = random_tensors(pytorch_gan_shapes(channels, embedding), scale=0.4)
    torch.save({"_orig_mod." + name: value for name, value in tensors.items()}, tmp_path / "g.pt")
    best = recognize(tmp_path / "g.pt")
    assert (best.converted.image.height, best.converted.image.channels) == (16, channels)
    t, (z32, z) = to_float64(tensors), noise()
    feeds = {"z": z32}
    if embedding:
        feeds["class_weights"] = F.one_hot(torch.tensor([2, 0, 1]), 3).float()
        z = torch.cat([z, t["label_emb.weight"][[2, 0, 1]]], 1)
    assert (converted_images(best, **feeds) - reference_output(t, z)).abs().max() < 1e-4
