"""From a run to a model folder: the graph, checked against PyTorch, with its manifest and card."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from service.runtime import latents
from service.runtime.catalog import model_folders
from service.runtime.errors import UserError
from service.runtime.manifest import (
    GENERATOR,
    MANIFEST_FILE,
    SLUG,
    Graph,
    ImageSpec,
    LatentSpace,
    Manifest,
    TrainingProvenance,
    file_sha256,
)
from service.runtime.model import Model
from service.runtime.sessions import Array, ExecutionPlan, Provider, Session
from training.checkpoints import Checkpoint, CheckpointError
from training.grids import columns, grid
from training.model_card import model_card
from training.recipe import Recipe
from training.run import Run

OPSET = 20
CHECKED_BATCHES = (1, 2, 7, 32)
CHECKED_LATENTS = 64
# Of float pictures in [-1, 1]: PyTorch and ONNX Runtime add in another order.
TOLERANCE = 1e-4
PREVIEW_SEEDS = range(64)
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


class ExportError(UserError):
    """The model cannot be exported, or the graph is not what was trained; nothing was written."""

    exit_code = 1


class ServedGenerator(nn.Module):
    """A generator with the last steps of serving: ``z`` to ``pixels`` [N, H, W, C] uint8.

    A class-conditional one takes ``class_index`` [N] int64 too.

    Its second output are the pictures before the cast, [N, C, H, W] in [-1, 1], for checking.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images: Tensor = self.generator(z, class_index)
        scaled = ((images + 1) * 127.5).round().clamp(0, 255)
        return scaled.permute(0, 2, 3, 1).to(torch.uint8), images


def export_run(run: Run, name: str, models: Path, version: str | None = None) -> Path:
    """Write the averaged generator of `run` as ``models/name/version``; return that folder.

    The version is the next free number when none is given. Raises ExportError, CheckpointError,
    RecipeError.
    """
    recipe = run.recipe()
    if not run.checkpoint_path.exists():
        raise CheckpointError(f"{run.folder} has no checkpoint yet: train for longer")
    checkpoint = Checkpoint.load(run.checkpoint_path)
    generator = load_generator(recipe, checkpoint)

    version = version or _next_version(models / name)
    for value in (name, version):
        if not SLUG.fullmatch(value):
            raise ExportError(f"{value!r} cannot stand in a URL: use a-z, 0-9, '.', '_' and '-'")
    folder = models / name / version
    if folder.exists():
        raise ExportError(f"{folder} is there already; choose another --version")
    with _new_folder(folder) as part:
        path = part / f"{GENERATOR}.onnx"
        graph = export_generator(generator, recipe.generator.z_dim, path, recipe.classes)
        manifest = _manifest(recipe, run, checkpoint, name, version, graph)
        (part / MANIFEST_FILE).write_text(manifest.to_json())
        # Loaded as the service will, so that a folder it would refuse is never there.
        pixels = Model(part, Provider.CPU, _PLAN).generate(PREVIEW_SEEDS)
        grid(pixels, columns(recipe.classes)).save(
            part / "preview.webp", format="WEBP", lossless=True
        )
        (part / "README.md").write_text(model_card(manifest, recipe))
    return folder


def load_generator(recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return the averaged generator of a checkpoint, ready to be evaluated."""
    generator = recipe.generator.build(recipe.shape, recipe.classes)
    generator.load_state_dict(checkpoint.game["average"])
    return generator.eval()


def export_generator(generator: nn.Module, z_dim: int, path: Path, classes: int = 0) -> Graph:
    """Write a generator as ONNX and check it against PyTorch. Raises ExportError.

    Spectral normalisation and batch normalisation are folded first. The batch is dynamic.
    """
    folded = fold_batch_norm(without_parametrizations(generator))
    served = ServedGenerator(folded).eval()
    batch = torch.export.Dim("N")
    feeds = {"z": torch.from_numpy(latents.draw(range(CHECKED_LATENTS), z_dim))}
    if classes:
        feeds["class_index"] = torch.arange(CHECKED_LATENTS) % classes
    # The exporter warns of torchvision's operators, which no network of ours has.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served,
            tuple(feed[:2] for feed in feeds.values()),
            input_names=list(feeds),
            output_names=["pixels", "images"],
            dynamic_shapes={name: {0: batch} for name in feeds},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    graph = _without_traces(program.model_proto)
    if left := {node.op_type for node in graph.graph.node} & {"BatchNormalization"}:
        raise ExportError(f"the graph still holds {', '.join(left)}; fold it before exporting")
    pixels = _check(graph, served, generator, feeds)
    del graph.graph.output[1]
    onnx.save(graph, path)
    session = Session(path, Provider.CPU, _PLAN)
    for size in CHECKED_BATCHES:
        if not np.array_equal(_in_batches(session, feeds, size)["pixels"], pixels):
            raise ExportError(f"{path.name} makes other pictures than the graph that was checked")
    return Graph(
        file=path.name,
        sha256=file_sha256(path),
        inputs=session.inputs,
        outputs=session.outputs,
    )


def without_parametrizations(network: nn.Module) -> nn.Module:
    """Return the network, in evaluation, with what computes a weight replaced by that weight.

    Spectral normalisation is such a computation; serving has no use for it.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if not parametrize.is_parametrized(module):
            continue
        names = list(module.parametrizations)  # type: ignore[arg-type]
        weights = {name: getattr(module, name).detach().clone() for name in names}
        # Not remove_parametrizations: a copy shares the class that this would take the weights of
        # the original away from.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return network


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network, in evaluation, with each batch normalisation in the layer before it.

    Folds what stands in a Sequential directly behind a convolution, a transposed one or a linear
    layer.
    """
    network = copy.deepcopy(network).eval()
    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for (name, layer), (norm_name, norm) in pairwise(list(sequence.named_children())):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d):
                folded: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.ConvTranspose2d):
                folded = fuse_conv_bn_eval(layer, norm, transpose=True)
            elif isinstance(norm, nn.BatchNorm1d) and isinstance(layer, nn.Linear):
                folded = fuse_linear_bn_eval(layer, norm)
            else:
                continue
            setattr(sequence, name, folded)
            setattr(sequence, norm_name, nn.Identity())
    return network


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter notes of its source: paths and lines, which are no part of a model.

    With them the digest of equal weights would differ from checkout to checkout.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for weight in graph.initializer:
        weight.ClearField("metadata_props")
        weight.ClearField("doc_string")
    model.ClearField("functions")
    return model


def _check(
    graph: onnx.ModelProto,
    served: ServedGenerator,
    original: nn.Module,
    feeds: Mapping[str, Tensor],
) -> Array:
    """Compare ONNX Runtime with PyTorch at several batch sizes, and batches with their rows.

    Returns the pixels. Raises ExportError.
    """
    with torch.no_grad():
        expected_images = original(*feeds.values()).numpy()
        expected_pixels = served(*feeds.values())[0].numpy()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "checked.onnx"
        onnx.save(graph, path)
        session = Session(path, Provider.CPU, _PLAN)
    rows = _in_batches(session, feeds, 1)
    for size in CHECKED_BATCHES:
        outputs = _in_batches(session, feeds, size)
        error = float(np.abs(outputs["images"] - expected_images).max())
        if not error <= TOLERANCE:
            raise ExportError(
                f"at batch {size} ONNX Runtime and PyTorch differ by {error:.1e} in [-1, 1], "
                f"more than {TOLERANCE:.0e}"
            )
        steps = np.abs(outputs["pixels"].astype(int) - expected_pixels.astype(int)).max()
        if steps > 1:
            raise ExportError(f"at batch {size} pixels differ from PyTorch's by {steps} steps")
        if not np.array_equal(outputs["pixels"], rows["pixels"]):
            raise ExportError(f"a batch of {size} is not equal to its rows one by one")
    return rows["pixels"]


def _in_batches(session: Session, feeds: Mapping[str, Tensor], size: int) -> Mapping[str, Array]:
    batches = zip(*(torch.split(feed, size) for feed in feeds.values()), strict=True)
    parts = [
        session.run({name: rows.numpy() for name, rows in zip(feeds, batch, strict=True)})
        for batch in batches
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _manifest(
    recipe: Recipe, run: Run, checkpoint: Checkpoint, name: str, version: str, graph: Graph
) -> Manifest:
    data = recipe.data
    return Manifest(
        name=name,
        version=version,
        task="generate",
        summary=recipe.summary,
        graphs={GENERATOR: graph},
        image=ImageSpec(height=data.resolution, width=data.resolution, channels=data.channels),
        latent=LatentSpace(dimension=recipe.generator.z_dim),
        classes=tuple(checkpoint.class_names),
        provenance=TrainingProvenance(
            recipe=recipe.name or run.name,
            dataset=data.title,
            dataset_license=data.license,
            images=checkpoint.images,
            turns=checkpoint.turn,
            seconds=round(checkpoint.seconds, 1),
            device=checkpoint.device,
            seed=recipe.train.seed,
            code_revision=checkpoint.code_revision,
        ),
        license=recipe.license,
    )


def _next_version(folder: Path) -> str:
    taken = [path.name for path in model_folders(folder.parent) if path.parent == folder]
    numbers = [int(name) for name in taken if name.isdigit()]
    return str(max(numbers, default=0) + 1)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, which becomes `folder` unless the block raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
