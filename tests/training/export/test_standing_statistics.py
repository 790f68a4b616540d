import numpy as np
import pytest
import torch
from torch import nn

from service.runtime.latent import seeds
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.folding import without_parametrizations
from training.export.standing_statistics import interpolation_weights, with_standing_statistics
from training.networks.layers.batch_norm import BatchNorm2d, StandingBatchNorm2d
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANGeneratorOptions
from training.networks.noise.dcgan import DCGANGenerator

Z_DIM, CLASSES = 16, 5


def generator(classes=CLASSES):
    """Return a BigGAN similar to a trained one: nonzero biases, converged spectral norms."""
    torch.manual_seed(0)
    options = BigGANGeneratorOptions(
        network="biggan", width=4, attention=16, z_dim=Z_DIM, class_width=6
    )
    network = options.build(ImageShape(3, 32, 32), classes)
    for name, weight in network.named_parameters():
        if name.endswith(("bias", "strength")):
            nn.init.normal_(weight, std=0.3)
    for _ in range(10):
        network(torch.randn(8, Z_DIM), torch.arange(8) % classes if classes else None)
    return network


@pytest.fixture(scope="module")
def fitted():
    return with_standing_statistics(generator(), Z_DIM, CLASSES, seeds.draw, batches=8)


def unseen(count):
    """Return latents and classes that the statistics were not fitted to."""
    z = torch.from_numpy(seeds.draw(range(10_000, 10_000 + count), Z_DIM))
    return z, torch.arange(count) % CLASSES


def variance_errors(fitted, z, class_index, standing):
    """Return for each normalization how far the variance of its outputs is from 1."""
    errors = []

    def hook(norm, inputs, out):
        if norm.weight is not None:
            out = (out - norm.bias[:, None, None]) / norm.weight[:, None, None]
        errors.append((out.var((0, 2, 3)) - 1).abs().mean().item())

    norms = [m for m in fitted.modules() if isinstance(m, StandingBatchNorm2d)]
    handles = [norm.register_forward_hook(hook) for norm in norms]
    with torch.no_grad():
        fitted.generator(z, class_index, standing)
    for handle in handles:
        handle.remove()
    return errors


def test_each_truncation_needs_its_own_statistics(fitted):
    z, class_index = unseen(256)
    half = torch.full((256,), 0.5)
    own = variance_errors(
        fitted, z * 0.5, class_index, interpolation_weights(half, fitted.truncations)
    )
    full = variance_errors(
        fitted, z * 0.5, class_index, interpolation_weights(half * 2, fitted.truncations)
    )
    assert max(own) < 0.25
    assert np.mean(full) > 3 * np.mean(own)


@pytest.mark.parametrize("truncation", [0.03, 0.525, 0.975])
def test_interpolated_statistics_give_unit_variance(fitted, truncation):
    z, class_index = unseen(256)
    between = torch.full((256,), truncation)
    errors = variance_errors(
        fitted, z * truncation, class_index, interpolation_weights(between, fitted.truncations)
    )
    assert max(errors) < 0.25


def test_interpolation_weights_of_nearest_truncations():
    truncations = torch.tensor([0.01, 0.1, 0.5, 1.0])
    weights = interpolation_weights(
        torch.tensor([0.0, 0.01, 0.3, 0.5, 0.875, 1.0, 1.5]), truncations
    )
    expected = [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0.5, 0.5, 0],
        [0, 0, 1, 0],
        [0, 0, 0.25, 0.75],
        [0, 0, 0, 1],
        [0, 0, 0, 1],
    ]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_statistics_are_deterministic_means_over_batches():
    network = generator()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(1)
    first, second = (
        with_standing_statistics(
            network, Z_DIM, CLASSES, seeds.draw, truncations=(0.5, 1), batches=3
        )
        for _ in range(2)
    )
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())
    assert network.training
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    # The inputs of the first normalization do not depend on other normalizations.
    z = torch.from_numpy(seeds.draw(range(3 * 64), Z_DIM)) * 0.5
    network.eval()
    x = network.first(z[:, :4]).reshape(-1, 16, 4, 4)
    standing = first.generator.blocks[0].norm_in.norm
    torch.testing.assert_close(standing.means[0], x.mean((0, 2, 3)))
    batches = torch.stack([part.var((0, 2, 3)) for part in torch.split(x, 64)])
    torch.testing.assert_close(standing.deviations[0], (batches.mean(0) + 1e-5).sqrt())


def test_replaces_all_running_averages(fitted):
    assert not any(isinstance(module, BatchNorm2d) for module in fitted.modules())
    assert not any(module.training for module in fitted.modules())


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_zero_truncation_gives_one_image_per_class(classes):
    fitted = with_standing_statistics(generator(classes), Z_DIM, classes, seeds.draw, batches=2)
    z = torch.from_numpy(seeds.draw(range(10), Z_DIM))
    class_index = torch.arange(10) % classes if classes else None
    with torch.no_grad():
        images = fitted(z, class_index, torch.zeros(10))
        full = fitted(z, class_index, torch.ones(10))
    assert images.isfinite().all()
    assert len(torch.unique(images.round(decimals=4), dim=0)) == max(classes, 1)
    assert len(torch.unique(full.round(decimals=4), dim=0)) == 10


def test_rows_depend_only_on_their_own_truncation(fitted):
    z, class_index = unseen(6)
    truncation = torch.tensor([0, 0.2, 0.33, 0.5, 0.9, 1])
    with torch.no_grad():
        together = fitted(z, class_index, truncation)
        for i in range(6):
            alone = fitted(z[i : i + 1], class_index[i : i + 1], truncation[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_rejects_generator_without_batch_norm():
    network = DCGANGenerator(Z_DIM, ImageShape(1, 28, 28), 4)
    with pytest.raises(ValueError, match="no batch normalization"):
        with_standing_statistics(network, Z_DIM, 0, seeds.draw)


def exported(fitted, path, classes):
    """Return an ONNX session of `fitted`, its inputs, and the images that PyTorch computes."""
    count = 64
    z = torch.from_numpy(seeds.draw(range(count), Z_DIM))
    feeds = {"z": z, "truncation": torch.linspace(0, 1, count)}
    if classes:
        feeds["class_index"] = torch.arange(count) % classes
    batch = torch.export.Dim("N")
    inputs = {name: feeds.get(name) for name in ("z", "class_index", "truncation")}
    program = torch.onnx.export(
        without_parametrizations(fitted),
        tuple(None if feed is None else feed[:2] for feed in inputs.values()),
        input_names=[name for name, feed in inputs.items() if feed is not None],
        output_names=["images"],
        dynamic_shapes={
            name: None if feed is None else {0: batch} for name, feed in inputs.items()
        },
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    program.save(path)
    with torch.no_grad():
        expected = fitted(*inputs.values()).numpy()
    session = Session(path, Provider.CPU, ExecutionPlan(1, 1, 64))
    return session, {name: feed.numpy() for name, feed in feeds.items()}, expected


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_export_gives_equal_rows_for_every_batch_size(tmp_path, classes):
    fitted = with_standing_statistics(generator(classes), Z_DIM, classes, seeds.draw, batches=2)
    session, feeds, expected = exported(fitted, tmp_path / "graph.onnx", classes)
    assert set(session.inputs) == set(feeds)
    by_size = []
    for size in (1, 2, 7, 32):
        starts = range(0, 64, size)
        parts = [
            session.run({n: feed[s : s + size] for n, feed in feeds.items()})["images"]
            for s in starts
        ]
        by_size.append(np.concatenate(parts))
        np.testing.assert_allclose(by_size[-1], expected, atol=1e-4)
        assert np.array_equal(by_size[-1], by_size[0])
