"""The doubling generators of PyTorch-GAN, written out from their published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.formats.base import UserOptions

Z, WIDTH, START = 6, 8, 4
NORM = ("weight", "bias", "running_mean", "running_var")


def doubling_shapes(channels=1, embedding=None):
    """`Generator` of its dcgan; its acgan's too, where there is an embedding of classes."""
    shapes = {} if embedding is None else {"label_emb.weight": embedding}
    joined = 0 if embedding is None or embedding[1] == Z else embedding[1]
    shapes |= {
        "l1.0.weight": (WIDTH * START**2, Z + joined),
        "l1.0.bias": (WIDTH * START**2,),
    }
    convolutions = {2: (WIDTH, WIDTH), 6: (WIDTH, WIDTH // 2), 9: (WIDTH // 2, channels)}
    for place, width in ((0, WIDTH), (3, WIDTH), (7, WIDTH // 2)):
        if place - 1 in convolutions:
            shapes |= convolution(place - 1, *convolutions.pop(place - 1))
        shapes |= {f"conv_blocks.{place}.{name}": (width,) for name in NORM}
        shapes[f"conv_blocks.{place}.num_batches_tracked"] = ()
    return shapes | convolution(9, *convolutions.pop(9))


def convolution(place, fan_in, width):
    path = f"conv_blocks.{place}"
    return {f"{path}.weight": (width, fan_in, 3, 3), f"{path}.bias": (width,)}


def pictures(t, x):
    def normal(place, x, eps):
        scale, shift, mean, var = (t[f"conv_blocks.{place}.{name}"] for name in NORM)
        return F.batch_norm(x, mean, var, scale, shift, eps=eps)

    def convolved(place, x):
        path = f"conv_blocks.{place}"
        return F.conv2d(x, t[f"{path}.weight"], t[f"{path}.bias"], padding=1)

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = F.linear(x, t["l1.0.weight"], t["l1.0.bias"]).reshape(-1, WIDTH, START, START)
    # Its 0.8 stands where `BatchNorm2d` takes eps.
    x = normal(0, x, 1e-5)
    x = F.leaky_relu(normal(3, convolved(2, twice(x)), 0.8), 0.2)
    x = F.leaky_relu(normal(7, convolved(6, twice(x)), 0.8), 0.2)
    return torch.tanh(convolved(9, x))


def noise(count=3):
    drawn = torch.from_numpy(seeds.draw(range(count), Z))
    return drawn, drawn.double()


def test_an_acgan_obeys_its_class(tmp_path):
    tensors = drawn(doubling_shapes(3, (4, Z)), scale=0.4)
    torch.save(tensors, tmp_path / "generator.pth")
    said = UserOptions(class_names=("zero", "one", "two", "three"))
    best, model = imported(tmp_path / "generator.pth", tmp_path / "models", said)
    assert best.format.name == "pytorch-gan"
    assert model.manifest.classes == said.class_names
    t, (_, z) = doubles(tensors), noise()
    # Multiplied with the noise, as its authors have it.
    for index in range(4):
        expected = to_levels(pictures(t, z * t["label_emb.weight"][index]))
        assert expected.std() > 20
        made = model.generate(range(3), [index] * 3).astype(int)
        assert np.abs(made - expected).max() <= 1


@pytest.mark.parametrize(("channels", "embedding"), [(1, None), (4, (3, 5))])
def test_without_classes_and_with_them_joined_it_is_the_same_function(
    tmp_path, channels, embedding
):
    tensors = drawn(doubling_shapes(channels, embedding), scale=0.4)
    torch.save({"_orig_mod." + name: value for name, value in tensors.items()}, tmp_path / "g.pt")
    best = recognised(tmp_path / "g.pt")
    assert (best.converted.image.height, best.converted.image.channels) == (16, channels)
    t, (feeds, z) = doubles(tensors), noise()
    given = {"z": feeds}
    if embedding:
        given["class_weights"] = F.one_hot(torch.tensor([2, 0, 1]), 3).float()
        z = torch.cat([z, t["label_emb.weight"][[2, 0, 1]]], 1)
    assert (remade(best, **given) - pictures(t, z)).abs().max() < 1e-4
