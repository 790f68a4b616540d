"""PyTorch-StudioGAN's generators: DCGAN, ResNet, BigGAN and two variants of BigGAN-deep.

The tensor names identify the backbone. The optional training configuration determines the
distribution of z and the image side of BigGAN-deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from service.runtime.latent.seeds import Distribution
from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    verify_shapes,
)
from training.importers.formats.noise.biggan import (
    block_paths,
    build_bottlenecks,
    class_conditional_latent,
    converted_class_conditional,
    describe_attention,
)
from training.importers.formats.noise.class_conditional import (
    BlockCondition,
    ClassConditionalGenerator,
    ConvOutput,
    LayerBuilder,
    LayerNames,
)
from training.importers.options import Assumption, Choices
from training.importers.reading.tensor_table import TensorTable
from training.importers.reading.weights import Network

_ATTENTION = ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", "sigma")
_ATTENTION_KEY = "conv1x1_theta.weight"
_EPS = 1e-4
_NAMES = {
    "plain": LayerNames(
        norms=("bn1", "bn2"),
        convolutions=("conv2d1", "conv2d2"),
        skip="conv2d0",
        statistics=(("running_mean", "running_var"), ("bn.running_mean", "bn.running_var")),
        gain="gain",
        bias="bias",
        attention=_ATTENTION,
        eps=_EPS,
    ),
    "deep": LayerNames(
        norms=("bn1", "bn2", "bn3", "bn4"),
        convolutions=("conv2d1", "conv2d2", "conv2d3", "conv2d4"),
        skip="conv2d0",
        statistics=(("running_mean", "running_var"), ("bn.running_mean", "bn.running_var")),
        gain="gain",
        bias="bias",
        attention=_ATTENTION,
        eps=_EPS,
    ),
}
_TITLES = {
    "deep_conv": "DCGAN",
    "resnet": "ResNet GAN",
    "big_resnet": "BigGAN",
    "big_resnet_deep_legacy": "BigGAN-deep",
    "big_resnet_deep_studiogan": "BigGAN-deep",
}
# The backbones that their authors sample with truncated latents.
_TRUNCATED = ("big_resnet", "big_resnet_deep_legacy", "big_resnet_deep_studiogan")


class StudioGan(Format):
    """The generators of PyTorch-StudioGAN, except StyleGAN."""

    name = "studiogan"
    title = "PyTorch-StudioGAN"
    origin = "POSTECH-CVLab/PyTorch-StudioGAN (MIT)"
    required_keys = (
        r"linear0\.weight(_orig)?",
        r"blocks\.0\.0\.(conv2d1|deconv0)\.weight(_orig)?",
        r"blocks\.0\.0\.bn[01]\.(bn\.)?running_mean",
        r"(conv2d5|conv4)\.weight(_orig)?",
    )
    excluded_keys = (r"info_.*",)
    published = "zero padding, nearest-neighbor upsampling, tanh at the end"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Identify the backbone by the tensor names, and build its generator."""
        return verify_shapes(self._convert(network.tensors.floats(), options))

    def _convert(self, tensors: TensorTable, options: Choices) -> ConvertedModel:
        model, data = (_section(options.config, name) for name in ("MODEL", "DATA"))
        backbone = _backbone(tensors, model)
        if model.get("g_act_fn", "ReLU") != "ReLU":
            raise FormatMismatchError(
                f"its activation is {model['g_act_fn']}; only ReLU is supported"
            )
        options.note(
            Assumption(
                "config",
                "activation between the layers",
                "relu",
                "configuration" if model else "assumed",
            )
        )
        deep = backbone.startswith("big_resnet_deep")
        build = LayerBuilder(tensors, _NAMES["deep" if deep else "plain"])
        paths = block_paths(tensors)
        configured_side = data.get("img_size")
        expected_side = options.side or (
            configured_side if isinstance(configured_side, int) else None
        )
        if deep:
            blocks, stages, count = build_bottlenecks(build, paths, expected_side, _ATTENTION_KEY)
        else:
            blocks = [_block(build, path, backbone) for path in paths]
            stages = count = sum(f"{path}.{_ATTENTION_KEY}" not in tensors for path in paths)
        first = build.linear("linear0")
        shared = tensors.get("shared.weight")
        classes, conditioning, z_dim = _conditioning(tensors, backbone, first, shared, count)
        output: nn.Module
        if backbone == "deep_conv":
            width, last = tensors["blocks.0.0.deconv0.weight"].shape[0], "conv4"
            output = ConvOutput(build.convolution(last))
        else:
            width, last = tensors["blocks.0.0.conv2d1.weight"].shape[1], "conv2d5"
            output = build.to_images(build.norm("bn4", affine=True), last)
        generator = ClassConditionalGenerator(
            first, blocks, output, shared, conditioning, width, classes
        )
        side = generator.start[1] * 2**stages
        if expected_side is not None and expected_side != side:
            raise ImportOptionError(
                f"--side or the configuration gives a side of {expected_side} pixels, but the "
                f"network generates images of {side}×{side}"
            )
        return converted_class_conditional(
            _TITLES[backbone],
            generator,
            z_dim,
            (side, tensors[f"{last}.weight"].shape[0]),
            options,
            classes,
            [
                ("backbone", backbone),
                (
                    "attention at",
                    describe_attention(paths, tensors, _ATTENTION_KEY, side, stages, count),
                ),
            ],
            distribution=_distribution(model, options),
            truncates=backbone in _TRUNCATED,
        )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _distribution(model: Mapping[str, Any], options: Choices) -> Distribution:
    """Return the distribution of z, from `--latent` or the configuration."""
    prior = model.get("z_prior")
    default = "uniform" if prior == "uniform" else "normal"
    return class_conditional_latent(options, default, "configuration" if prior else "assumed")


def _backbone(tensors: Mapping[str, Tensor], model: Mapping[str, Any]) -> str:
    """Return the backbone. The configuration decides if the tensor names are ambiguous.

    Raises ImportOptionError if the tensor names and the configuration disagree.
    """
    block = "blocks.0.0"
    configured = model.get("backbone", "resnet") if model else None
    if f"{block}.deconv0.weight" in tensors:
        backbone = "deep_conv"
    elif f"{block}.conv2d4.weight" in tensors:
        has_skip_conv = f"{block}.conv2d0.weight" in tensors
        backbone = "big_resnet_deep_studiogan" if has_skip_conv else "big_resnet_deep_legacy"
    elif "shared.weight" in tensors:
        backbone = "big_resnet"
    elif f"{block}.bn1.gain.weight" not in tensors:
        backbone = "resnet"
    else:
        # Without a shared embedding, normalizations take a chunk of z or a one-hot class. Only the
        # number of values can tell them apart.
        values = tensors[f"{block}.bn1.gain.weight"].shape[1]
        chunked = values == tensors["linear0.weight"].shape[1]
        backbone = "big_resnet" if chunked and configured != "resnet" else "resnet"
    if configured in _TITLES and configured != backbone:
        raise ImportOptionError(
            f"the configuration has the backbone {configured}, but the tensors are of {backbone}: "
            "specify the configuration of this checkpoint with --config"
        )
    return backbone


def _block(build: LayerBuilder, path: str, backbone: str) -> nn.Module:
    if f"{path}.{_ATTENTION_KEY}" in build.tensors:
        return build.attention(path)
    if backbone == "deep_conv":
        return build.upsample_conv(path, "deconv0", "bn0")
    return build.block(path)


def _conditioning(
    tensors: Mapping[str, Tensor],
    backbone: str,
    first: nn.Linear,
    shared: Tensor | None,
    blocks: int,
) -> tuple[int, BlockCondition, int]:
    """Return the number of classes, the condition of the blocks, and the dimension of z."""
    embedded = 0 if shared is None else shared.shape[1]
    classes = 0 if shared is None else shared.shape[0]
    if backbone == "big_resnet":
        return classes, "chunks", first.in_features * (blocks + 1)
    if backbone.startswith("big_resnet_deep"):
        return classes, "whole", first.in_features - embedded
    norm = "bn0" if backbone == "deep_conv" else "bn1"
    gain = tensors.get(f"blocks.0.0.{norm}.gain.weight")
    return 0 if gain is None else gain.shape[1], "class", first.in_features
