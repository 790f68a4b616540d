"""pytorch-pretrained-BigGAN checkpoints, compared with a reference implementation."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds as latents
from tests.support.checkpoints import import_checkpoint, random_tensors, recognize, to_levels
from tests.support.reference_networks import (
    ReferenceLayers,
    batch_norm,
    converted_pixels,
    pytorch_weight,
    spectral_norm_shapes,
    upsample_nearest,
    with_singular_vectors,
)

CLASSES, Z, TRUNCATIONS = 4, 6, 51
ATTENTION = [f"snconv1x1_{name}" for name in ("theta", "phi", "g", "o_conv")] + ["gamma"]


def checkpoint_tensors(widths, attention_block, seed=0):
    """Return random weights, with two blocks per side and attention before `attention_block`."""
    shapes = {"embeddings.weight": (Z, CLASSES)}
    shapes |= spectral_norm_shapes("generator.gen_z", 16 * widths[0], 2 * Z)
    index = 0
    for i in range(2 * len(widths) - 2):
        a = widths[i // 2]
        b = widths[i // 2 + i % 2]
        if i == attention_block:
            path = f"generator.layers.{index}"
            for name, (out, fan_in) in zip(
                ATTENTION, [(a // 8, a), (a // 8, a), (a // 2, a), (a, a // 2)], strict=False
            ):
                shapes |= spectral_norm_shapes(f"{path}.{name}", out, fan_in, 1, 1, bias=False)
            shapes[f"{path}.gamma"] = (1,)
            index += 1
        path, inner = f"generator.layers.{index}", a // 4
        convolutions = [(inner, a, 1), (inner, inner, 3), (inner, inner, 3), (b, inner, 1)]
        for j, (out, fan_in, kernel) in enumerate(convolutions):
            shapes |= spectral_norm_shapes(f"{path}.conv_{j}", out, fan_in, kernel, kernel)
            shapes |= {
                f"{path}.bn_{j}.{n}": (TRUNCATIONS, fan_in)
                for n in ("running_means", "running_vars")
            }
            for part in ("scale", "offset"):
                shapes |= spectral_norm_shapes(f"{path}.bn_{j}.{part}", fan_in, 2 * Z, bias=False)
        index += 1
    last = widths[-1]
    shapes |= {f"generator.bn.{n}": (TRUNCATIONS, last) for n in ("running_means", "running_vars")}
    shapes |= {"generator.bn.weight": (last,), "generator.bn.bias": (last,)}
    shapes |= spectral_norm_shapes("generator.conv_to_rgb", last, last, 3, 3)
    return with_singular_vectors(random_tensors(shapes, seed))


def reference_output(tensors, z, label, truncation):
    net = ReferenceLayers(tensors, pytorch_weight, ATTENTION)
    t = net.t
    condition = torch.cat([z, t["embeddings.weight"] @ label])
    step = 1 / (TRUNCATIONS - 1)
    start = int(truncation / step + 1e-6)
    fraction = truncation / step - start
    exact = abs(fraction) < 1e-6

    def norm(path, x):
        mean, var = (t[f"{path}.{name}"] for name in ("running_means", "running_vars"))
        if exact:
            mean, var = mean[start], var[start]
        else:
            mean, var = (v[start] * fraction + v[start + 1] * (1 - fraction) for v in (mean, var))
        if f"{path}.weight" in t:
            return batch_norm(x, mean, var, 1e-4, t[f"{path}.weight"], t[f"{path}.bias"])
        gain, bias = (net.linear(f"{path}.{n}", condition) for n in ("scale", "offset"))
        return batch_norm(x, mean, var, 1e-4, 1 + gain, bias)

    x = net.linear("generator.gen_z", condition).reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    index = block = 0
    while f"generator.layers.{index}.gamma" in t or f"generator.layers.{index}.conv_0.bias" in t:
        path = f"generator.layers.{index}"
        index += 1
        if f"{path}.gamma" in t:
            x = net.self_attention(path, x)
            continue
        h = net.conv(f"{path}.conv_0", norm(f"{path}.bn_0", x).clamp(min=0))
        h = norm(f"{path}.bn_1", h).clamp(min=0)
        outputs = net.weight(f"{path}.conv_3").shape[0]
        if outputs != x.shape[1]:
            x = x[:, : x.shape[1] // 2]
        if block % 2:
            h, x = upsample_nearest(h), upsample_nearest(x)
        h = net.conv(f"{path}.conv_1", h)
        h = net.conv(f"{path}.conv_2", norm(f"{path}.bn_2", h).clamp(min=0))
        x = x + net.conv(f"{path}.conv_3", norm(f"{path}.bn_3", h).clamp(min=0))
        block += 1
    x = net.conv("generator.conv_to_rgb", norm("generator.bn", x).clamp(min=0))
    return torch.tanh(x[:, :3])


def latent(seed):
    return torch.from_numpy(latents.draw([seed], Z, "truncated-normal"))[0].double()


@pytest.mark.slow
def test_rows_have_separate_truncations(tmp_path):
    tensors = checkpoint_tensors([16, 8], 9)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    best, model = import_checkpoint(tmp_path / "pytorch_model.bin", tmp_path / "models")
    assert best.format.name == "pytorch-pretrained-biggan"
    assert model.manifest.latent.distribution == "truncated-normal"
    assert model.manifest.latent.truncation is not None
    truncations = [1.0, 0.4, 0.7, 0.43, 0.02]
    seeds, classes = [3, 4, 5, 6, 7], [0, 3, 1, 2, 0]
    pixels = model.generate(seeds, classes, truncations).astype(int)
    rows = zip(seeds, classes, truncations, strict=True)
    for row, (seed, index, truncation) in enumerate(rows):
        label = F.one_hot(torch.tensor(index), CLASSES).double()
        z = truncation * latent(seed)
        expected = to_levels(reference_output(tensors, z, label, truncation))
        assert np.abs(pixels[row] - expected[0]).max() <= 1
        assert expected.std() > 10


def test_infers_side_and_blends_classes(tmp_path):
    tensors = checkpoint_tensors([32, 32, 16, 8], 4, seed=1)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    best = recognize(tmp_path / "pytorch_model.bin")
    assert best.converted.image.height == 32
    assert dict(best.converted.details)["attention at"] == "16×16"
    label = torch.tensor([0.5, 0.0, 0.25, 0.25]).double()
    expected = to_levels(reference_output(tensors, 0.5 * latent(2), label, 0.5))
    assert np.abs(converted_pixels(best, latent(2), label, 0.5) - expected).max() <= 1
