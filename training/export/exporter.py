"""From a run to a model folder: the graph, checked against PyTorch, with its manifest and card."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from service.runtime.errors import UserError
from service.runtime.files import CannotWrite
from service.runtime.latent.seeds import Distribution
from service.runtime.models.catalog import model_folders
from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import (
    GENERATOR,
    MANIFEST_FILE,
    SLUG,
    Graph,
    ImageSpec,
    LatentSpace,
    Manifest,
    Quality,
    TrainingProvenance,
    Truncation,
)
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session
from training.checkpoints import Checkpoint, CheckpointError
from training.export.folding import (
    fold_batch_norm,
    settle_spectral_norms,
    without_parametrizations,
)
from training.export.graphs import (
    GraphSpec,
    generator_graph_specs,
    image_to_image_graph_spec,
    style_space,
)
from training.export.model_card import model_card
from training.export.onnx_files import described, save
from training.export.receptive_field import measure_receptive_field
from training.networks.image.cycle import CycleGenerators
from training.preview.grids import columns, grid, side_by_side
from training.preview.image_to_image import shown_pairs
from training.recipe.schema import Recipe
from training.run import Run

OPSET = 20
CHECKED_BATCHES = (1, 2, 7, 32)
# PyTorch and ONNX Runtime add in another order. Relative to the largest value, if it is above 1.
TOLERANCE = 1e-4
PREVIEW_SEEDS = range(64)
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


class ExportError(UserError):
    """The model cannot be exported, or the graph is not what was trained; nothing was written."""

    exit_code = 1


def export_run(
    run: Run,
    name: str,
    models: Path,
    version: str | None = None,
    measure: Callable[[Model], tuple[Quality, ...]] | None = None,
) -> Path:
    """Write the averaged generator of `run` as ``models/name/version``; return that folder.

    The version is the next free number when none is given. `measure` is given the model as it will
    be served, and what it returns stands in the manifest and on the card. Raises ExportError,
    CheckpointError, RecipeError, and what `measure` raises; the folder is then not there.
    """
    recipe = run.recipe()
    if not run.checkpoint_path.exists():
        raise CheckpointError(f"{run.folder} has no checkpoint yet: train for longer")
    checkpoint = Checkpoint.load(run.checkpoint_path)
    growing = recipe.growing
    if growing and growing.at(checkpoint.images, recipe.data.resolution):
        whole = growing.images(recipe.data.resolution)
        raise ExportError(
            f"{run.folder} is at {checkpoint.images:,} images, and grown at {whole:,}: "
            "train for longer"
        )
    generator = load_generator(recipe, checkpoint)

    version = version or next_version(models / name)
    folder = check_name(models, name, version)
    with new_folder(folder) as part:
        graphs = {
            piece.role: export_graph(piece, part / f"{piece.role}.onnx")
            for piece in recipe_graph_specs(recipe, generator)
        }
        manifest = _manifest(recipe, run, checkpoint, name, version, graphs, generator)
        (part / MANIFEST_FILE).write_text(manifest.to_json())
        # Loaded as the service will, so that a folder it would refuse is never there.
        model = Model(part, Provider.CPU, _PLAN)
        if manifest.input is not None:
            reach = measure_receptive_field(model, shown_pairs(recipe, model)[0])
            given = manifest.input.model_copy(update={"reach": reach})
            manifest = manifest.model_copy(update={"input": given})
        if measure:
            manifest = manifest.model_copy(update={"quality": measure(model)})
        golden = write_golden(model, part)
        manifest = manifest.model_copy(update={"golden": tuple(golden)})
        (part / MANIFEST_FILE).write_text(manifest.to_json())
        sheet = preview(recipe, model)
        sheet.save(part / "preview.webp", format="WEBP", lossless=True)
        (part / "README.md").write_text(model_card(manifest, recipe))
    return folder


def recipe_graph_specs(recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
    """Return what is to be exported of a recipe's generator, in evaluation."""
    given = recipe.picture_input
    if given is None:
        noise = recipe.noise
        return generator_graph_specs(generator, noise.z_dim, recipe.classes, noise.distribution)
    networks = {GENERATOR: generator}
    if isinstance(generator, CycleGenerators):
        networks = dict(generator.items())
    return [
        image_to_image_graph_spec(role, network, recipe.picture_task, given)
        for role, network in networks.items()
    ]


def preview(recipe: Recipe, model: Model) -> Image.Image:
    """Return samples of a model as it will be served.

    Of a generator from pictures: what goes in, what comes out, and, where that is known, what
    should have, of pictures that it has not seen where there are any.
    """
    if model.manifest.input is None:
        return grid(model.generate(PREVIEW_SEEDS), columns(recipe.classes))
    return side_by_side(shown_pairs(recipe, model))


def load_generator(recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return the averaged generator of a checkpoint, ready to be evaluated."""
    generator = recipe.build_generator()
    generator.load_state_dict(checkpoint.game["average"])
    settle_spectral_norms(generator)
    return generator.eval()


def export_generator(
    generator: nn.Module,
    z_dim: int,
    folder: Path,
    classes: int = 0,
    distribution: Distribution = "normal",
) -> dict[str, Graph]:
    """Write the graphs of a generator in evaluation into `folder`. Raises ExportError."""
    return {
        piece.role: export_graph(piece, folder / f"{piece.role}.onnx")
        for piece in generator_graph_specs(generator, z_dim, classes, distribution)
    }


def export_graph(piece: GraphSpec, path: Path) -> Graph:
    """Write a piece of a generator as ONNX and check it against PyTorch. Raises ExportError.

    Spectral normalisation and batch normalisation are folded first. The batch is dynamic.
    """
    folded = fold_batch_norm(without_parametrizations(piece.module)).eval()
    batch = torch.export.Dim("N")
    # An axis of one step would be taken for one that is always that.
    traced = piece.extra_feeds[0] if piece.extra_feeds else piece.feeds
    # The exporter warns of torchvision's operators, which no network of ours has.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            folded,
            (),
            kwargs={name: feed[:2] for name, feed in traced.items()},
            input_names=list(piece.feeds),
            output_names=[*piece.outputs, *piece.checked_outputs],
            dynamic_shapes={
                name: {0: batch, **piece.dynamic_axes.get(name, {})} for name in piece.feeds
            },
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    graph = _without_traces(program.model_proto)
    if left := {node.op_type for node in graph.graph.node} & {"BatchNormalization"}:
        raise ExportError(f"the graph still holds {', '.join(left)}; fold it before exporting")
    with tempfile.TemporaryDirectory(prefix=".checking-", dir=path.parent) as temporary:
        checked = Path(temporary) / path.name
        # From here on the weights are on the disk alone, where they are too many for one file.
        save(graph, checked)
        rows = _check(checked, piece, folded)
        del graph.graph.output[len(piece.outputs) :]
        save(graph, checked)
        for written in Path(temporary).iterdir():
            written.replace(path.with_name(written.name))
    session = Session(path, Provider.CPU, _PLAN)
    for feeds, expected in zip((piece.feeds, *piece.extra_feeds), rows, strict=True):
        for size in _batches(feeds):
            outputs = _in_batches(session, feeds, size)
            if any(not np.array_equal(outputs[name], expected[name]) for name in piece.outputs):
                raise ExportError(f"{path.name} gives other values than the graph that was checked")
    return described(path, session)


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


def _check(path: Path, piece: GraphSpec, folded: nn.Module) -> list[Mapping[str, Array]]:
    """Compare ONNX Runtime with PyTorch at several batch sizes, and batches with their rows.

    Returns the outputs of the feeds and of each of the others. Raises ExportError.
    """
    session = Session(path, Provider.CPU, _PLAN)
    return [
        _check_feeds(session, piece, folded, feeds) for feeds in (piece.feeds, *piece.extra_feeds)
    ]


def _check_feeds(
    session: Session, piece: GraphSpec, folded: nn.Module, feeds: Mapping[str, Tensor]
) -> Mapping[str, Array]:
    names = [*piece.outputs, *piece.checked_outputs]
    with torch.no_grad():
        # Values as the network made them before anything was folded, and bytes after it.
        original = dict(zip(names, piece.module(**feeds), strict=True))
        rounded = dict(zip(names, folded(**feeds), strict=True))
    rows = _in_batches(session, feeds, 1)
    for size in _batches(feeds):
        outputs = rows if size == 1 else _in_batches(session, feeds, size)
        for name in names:
            if outputs[name].dtype == np.uint8:
                steps = np.abs(outputs[name].astype(int) - rounded[name].numpy().astype(int)).max()
                if steps > 1:
                    raise ExportError(
                        f"at batch {size} {name} differ from PyTorch's by {steps} steps"
                    )
            else:
                expected = original[name].numpy()
                tolerance = TOLERANCE * max(1.0, float(np.abs(expected).max()))
                error = float(np.abs(outputs[name] - expected).max())
                if not error <= tolerance:
                    raise ExportError(
                        f"at batch {size} ONNX Runtime and PyTorch differ by {error:.1e} in "
                        f"{name}, more than {tolerance:.0e}"
                    )
            if name in piece.outputs and not np.array_equal(outputs[name], rows[name]):
                raise ExportError(f"a batch of {size} is not equal to its rows one by one")
    return rows


def _batches(feeds: Mapping[str, Tensor]) -> list[int]:
    """Return the batch sizes to check, none of them twice where there are few rows."""
    count = len(next(iter(feeds.values())))
    return list(dict.fromkeys(min(size, count) for size in CHECKED_BATCHES))


def _in_batches(session: Session, feeds: Mapping[str, Tensor], size: int) -> Mapping[str, Array]:
    batches = zip(*(torch.split(feed, size) for feed in feeds.values()), strict=True)
    parts = [
        session.run({name: rows.numpy() for name, rows in zip(feeds, batch, strict=True)})
        for batch in batches
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _manifest(
    recipe: Recipe,
    run: Run,
    checkpoint: Checkpoint,
    name: str,
    version: str,
    graphs: dict[str, Graph],
    generator: nn.Module,
) -> Manifest:
    data, given = recipe.data, recipe.picture_input
    latent = None
    if given is None:
        truncates = any("truncation" in graph.inputs for graph in graphs.values())
        latent = LatentSpace(
            dimension=recipe.noise.z_dim,
            distribution=recipe.noise.distribution,
            truncation=Truncation() if truncates else None,
        )
    return Manifest(
        name=name,
        version=version,
        task="generate" if given is None else recipe.picture_task.route,
        summary=recipe.summary,
        graphs=graphs,
        image=ImageSpec(height=data.resolution, width=data.resolution, channels=data.channels),
        latent=latent,
        input=given,
        classes=tuple(checkpoint.class_names),
        styles=style_space(generator),
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


def check_name(models: Path, name: str, version: str) -> Path:
    """Return the folder of a model that is to be written. Raises ExportError where it cannot be."""
    for value in (name, version):
        if not SLUG.fullmatch(value):
            raise ExportError(f"{value!r} cannot stand in a URL: use a-z, 0-9, '.', '_' and '-'")
    folder = models / name / version
    if folder.exists():
        raise ExportError(f"{folder} is there already; choose another --version")
    return folder


def next_version(folder: Path) -> str:
    """Return the first number above those of the versions in a model's folder."""
    taken = [path.name for path in model_folders(folder.parent) if path.parent == folder]
    numbers = [int(name) for name in taken if name.isdigit()]
    return str(max(numbers, default=0) + 1)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, which becomes `folder` unless the block raises.

    Raises CannotWrite.
    """
    try:
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
    except OSError as error:
        raise CannotWrite(folder, error) from error
