import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from training.fine_tuning.transfer import ClassNames, transfer
from training.networks.layers.shapes import ImageShape
from training.networks.noise.stylegan2 import (
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
)

NONE = ClassNames((), ())


def generator(side=16, width=4, classes=0):
    options = StyleGAN2GeneratorOptions(
        network="stylegan2", z_dim=8, w_dim=8, mapping_layers=1, class_width=4, width=width, most=8
    )
    return options.build(ImageShape(3, side, side), classes)


def discriminator(side=16, width=4, classes=0):
    options = StyleGAN2DiscriminatorOptions(network="stylegan2", width=width, most=8)
    return options.build(ImageShape(3, side, side), classes)


def test_equal_networks_are_copied_completely():
    source, target = generator(), generator()
    result = transfer("generator", source.state_dict(), target, NONE)
    assert (result.share, result.new, result.unused) == (1.0, (), ())
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_higher_resolution_adds_blocks_and_keeps_the_others():
    # Half of the width, so that all resolutions have the same channels as before.
    source, target = generator(16, 4), generator(32, 2)
    result = transfer("generator", source.state_dict(), target, NONE)
    new = {".".join(name.split(".")[:3]) for name in result.new}
    assert new == {f"synthesis.{part}.2" for part in ("grow", "refine", "to_image")}
    assert result.unused == ()
    result = transfer(
        "discriminator", discriminator(16, 4).state_dict(), discriminator(32, 2), NONE
    )
    assert {".".join(name.split(".")[:2]) for name in result.new} == {
        "from_image.32",
        "blocks.32",
    }
    assert set(result.unused) == {"from_image.16.weight", "from_image.16.bias"}


@torch.no_grad()
def test_higher_resolution_starts_with_the_enlarged_images_of_the_source():
    source, target = generator(16, 4).eval(), generator(32, 2).eval()
    result = transfer("generator", source.state_dict(), target, NONE)
    assert result.zero == ("synthesis.to_image.2",)
    w = torch.randn(3, len(target.synthesis.layer_resolutions), 8)
    enlarged = target.synthesis.upsample(
        source.synthesis(w[:, : len(source.synthesis.layer_resolutions)])
    )
    torch.testing.assert_close(target.synthesis(w), enlarged)


def test_output_layers_start_at_zero_only_beside_others():
    source, target = generator(), generator()
    assert transfer("generator", source.state_dict(), target, NONE).zero == ()
    mapping = {k: v for k, v in source.state_dict().items() if k.startswith("mapping.")}
    assert transfer("generator", mapping, target, NONE).zero == ()
    assert target.synthesis.to_image[-1].conv.weight.any()


def test_tensors_of_other_shapes_are_listed_in_both_directions():
    source, target = generator(width=4), generator(width=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    result = transfer("generator", source.state_dict(), target, NONE)
    line = "synthesis.grow.1.bias (4 in the source, 2 here)"
    assert line in result.new
    assert line in result.unused
    assert torch.equal(
        target.state_dict()["synthesis.grow.1.bias"], before["synthesis.grow.1.bias"]
    )
    assert 0 < result.share < 1


def test_class_embeddings_are_matched_by_name():
    source, target = generator(classes=3), generator(classes=4)
    classes = ClassNames(("daisy", "rose", "tulip"), ("cat", "rose", "daisy", "ship"))
    result = transfer("generator", source.state_dict(), target, classes)
    rows, given = target.mapping.label.embed.weight, source.mapping.label.embed.weight
    assert torch.equal(rows[1], given[1])
    assert torch.equal(rows[2], given[0])
    assert torch.equal(rows[0], given.mean(0))
    assert torch.equal(rows[3], given.mean(0))
    assert result.kept_classes == ("rose", "daisy")
    assert result.new_classes == ("cat", "ship")
    assert result.new == ()


def test_classes_of_equal_count_are_not_taken_by_their_position():
    source, target = generator(classes=2), generator(classes=2)
    classes = ClassNames(("cat", "dog"), ("dog", "cat"))
    transfer("generator", source.state_dict(), target, classes)
    rows, given = target.mapping.label.embed.weight, source.mapping.label.embed.weight
    assert torch.equal(rows, given.flip(0))


def test_embeddings_with_spectral_norm_are_matched_too():
    def network(count):
        return nn.Sequential(spectral_norm(nn.Embedding(count, 4)))

    source, target = network(2), network(3)
    result = transfer(
        "discriminator",
        source.state_dict(),
        target,
        ClassNames(("a", "b"), ("b", "c", "a")),
    )
    given = source.state_dict()["0.parametrizations.weight.original"]
    rows = target.state_dict()["0.parametrizations.weight.original"]
    assert torch.equal(rows, torch.stack([given[1], given.mean(0), given[0]]))
    assert result.new == ()


def test_conditional_to_unconditional_lists_the_embedding():
    result = transfer("generator", generator(classes=3).state_dict(), generator(), NONE)
    assert "mapping.label.embed.weight" in result.unused
    assert any(name.startswith("mapping.layers.0.weight (") for name in result.new)


@pytest.mark.parametrize("classes", [0, 3])
def test_unrelated_network_takes_nothing(classes):
    source = {"0.weight": torch.zeros(3, 3)}
    result = transfer("generator", source, generator(classes=classes), NONE)
    assert (result.taken, result.share, result.unused) == ((), 0.0, ("0.weight",))
