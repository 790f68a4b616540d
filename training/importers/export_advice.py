"""How to export a network of an unknown format to ONNX, where its code is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from training.importers.left_out import is_training_only
from training.importers.reading.weights import Network


def onnx_export_advice(file: Path, networks: Sequence[Network]) -> str:
    """Return a script that exports the network of a file, and the command that imports the graph.

    The script loads this file; the input is guessed from the shape of the first layer.
    """
    generators = [each for each in networks if not is_training_only(each)] or networks
    network = max(generators, key=lambda each: (each.averaged, each.parameters))
    *_, inner = network.unwrapped()
    keys = "".join(f'["{key}"]' for key in network.name.split(".") if key)
    first, last = next(iter(network.tensors)), next(iter(inner.tensors))
    prefix = first.removesuffix(last)
    example, axes, name = _input(inner)
    target = file.with_suffix(".onnx").name
    load, weights = f'torch.load("{file.name}", map_location="cpu")', ""
    if file.suffix == ".safetensors":
        load, weights = f'load_file("{file.name}")', "; from safetensors.torch import load_file"
    state = f"{load}{keys}"
    if prefix:
        state = f'{{k.removeprefix("{prefix}"): v for k, v in {state}.items()}}'
    lines = [
        f"import torch; from your_project import Generator{weights}  # the class of this network",
        "network = Generator()  # with the arguments of the training",
        f"network.load_state_dict({state}, strict=False)"
        if network.counts_averages
        else f"network.load_state_dict({state})",
        f'torch.onnx.export(network.eval(), {example}, "{target}", input_names=["{name}"], '
        f'output_names=["pixels"], dynamic_axes={{"{name}": {axes}}}, dynamo=False)',
    ]
    script = "\n".join(f"    {line}" for line in lines)
    return (
        f"Run this where the code of the network is:\n{script}\n"
        f"and then: ganymede import {target} --range -1,1  "
        "# the values of black and white in its images"
    )


def _input(network: Network) -> tuple[str, str, str]:
    """Return an example input, its dynamic axes and its name, guessed from the first layer."""
    for name, shape in network.tensors.shapes().items():
        if len(shape) < 2 or re.search(r"(?i)emb", name):
            continue
        if len(shape) == 4 and shape[1] in (1, 3, 4):
            return f"torch.rand(1, {shape[1]}, 64, 64)", '{0: "N", 2: "h", 3: "w"}', "image"
        if len(shape) == 4:
            return f"torch.randn(1, {shape[0]}, 1, 1)", '{0: "N"}', "z"
        return f"torch.randn(1, {shape[-1]})", '{0: "N"}', "z"
    return "torch.randn(1, 100)", '{0: "N"}', "z"
