"""The verb `ganymede import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.importers.formats.base import ConvertedModel
    from training.importers.import_model import ImportTarget, Pixels
    from training.importers.onnx.ports import GraphOptions
    from training.importers.recognition import Candidate


def import_(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint: .pt, .pth, .ckpt, .safetensors, .pkl, .onnx.")
    ],
    name: Annotated[
        str | None,
        typer.Option(help="The model's name.  [default: the file's]", show_default=False),
    ] = None,
    models: Annotated[
        Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
    version: Annotated[
        str | None,
        typer.Option(help="The version.  [default: the next free number]", show_default=False),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell what is in the file and what it was held to be.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="Which of several networks in the file.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, help="So many of the first layer's inputs are a one-hot class."),
    ] = None,
    class_names: Annotated[
        str | None, typer.Option(help="The classes' names: cat,dog,… or a file, one a line.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=1, help="The side of the pictures that it was trained on.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=4, help="1 grey, 3 RGB, 4 RGBA, where it is not told.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Between layers: relu, leaky_relu, elu or selu.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="After the last layer: tanh or sigmoid.")
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(help="Of batch normalisation: picture, running or standing (see the docs)."),
    ] = None,
    latent: Annotated[
        str | None,
        typer.Option(help="What z is drawn from: normal, uniform (-1 to 1) or unit (0 to 1)."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Its training's configuration, YAML or JSON.  [default: the one beside it]",
            show_default=False,
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="Of an ONNX graph: z=NAME, image=NAME, pixels=NAME, class=NAME…"
        ),
    ] = None,
    range_: Annotated[
        str | None, typer.Option("--range", help="Black and white in an ONNX graph: -1,1 or 0,1.")
    ] = None,
    input_range: Annotated[
        str | None, typer.Option(help="The same of pictures that go in, where it is another.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Of an ONNX graph's pictures: nchw or nhwc.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Of an ONNX graph: translate, colorize or upscale, where it is not told."
        ),
    ] = None,
    z_dim: Annotated[
        int | None, typer.Option(min=1, help="The numbers of z, where an ONNX graph does not tell.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="A folder of pictures for the sheet of a model that takes pictures."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Write weights in float16, and say what that changes.")
    ] = False,
    license_: Annotated[
        str, typer.Option("--license", help="The licence of the weights, for the model card.")
    ] = "unknown",
) -> None:
    """Make a model folder of a generator that was trained elsewhere.

    Nothing in the file is executed. The format is recognised by the tensors' names and shapes.

    Example: ganymede import latest_net_G.pth --name horse2zebra
    """
    from training.importers.errors import ModelImportError
    from training.importers.formats.base import UserOptions
    from training.importers.import_model import ImportTarget, import_model
    from training.importers.onnx.ports import parse_graph_options
    from training.importers.reading.files import read_file
    from training.importers.reading.onnx_files import is_onnx_file
    from training.importers.reading.weights import find_networks
    from training.importers.recognition import match_formats, select_candidate

    said = UserOptions(
        classes=classes,
        class_names=_names(class_names),
        side=side,
        channels=channels,
        activation=activation,
        output=output,
        statistics=statistics,
        latent=latent,
        config=_config(file, config),
    )
    target = ImportTarget(models, name or _slug(file), version, license_, half)
    if is_onnx_file(file):
        options = parse_graph_options(map_ or (), range_, input_range, layout, task, z_dim, said)
        _import_graph(file, options, target, _pictures(pictures), explain=explain)
        return
    tree = read_file(file)
    try:
        tried = match_formats(find_networks(tree), said)
    except ModelImportError as error:
        raise type(error)(f"{file}: {error}") from error
    if explain:
        _explain(file, tried)
        return
    try:
        best = select_candidate(tried, network)
    except ModelImportError as error:
        raise ModelImportError(f"{file}: {error}") from error
    assert best.converted is not None  # noqa: S101 - for the type checker
    _tell(best.label, best.format.title, best.converted)
    shown = _pictures(pictures)
    folder = import_model(file, best.format, best.converted, target, shown, typer.echo)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {models}")


def _config(file: Path, said: Path | None) -> dict[str, Any]:
    """Return what was configured: in the file that was said, or one beside the checkpoint."""
    from training.importers.errors import ModelImportError
    from training.importers.reading.files import find_config, read_config

    if said is not None:
        return read_config(said)
    found = find_config(file)
    if found is None:
        return {}
    try:
        return read_config(found)
    except ModelImportError:
        # Nobody said that it belongs to the checkpoint.
        return {}


def _tell(what: str, title: str, converted: ConvertedModel) -> None:
    details = ", ".join(f"{what} {value}" for what, value in converted.details)
    typer.echo(f"{what}: {title}; {details}")
    for note in converted.notes:
        typer.echo(note)


def _import_graph(
    file: Path, options: GraphOptions, target: ImportTarget, shown: list[Pixels], *, explain: bool
) -> None:
    from training.importers.import_model import import_model
    from training.importers.onnx.conversion import OnnxFormat, convert_graph, describe_graph

    if explain:
        for line in describe_graph(file):
            typer.echo(line)
        return
    converted = convert_graph(file, options)
    _tell("the graph", OnnxFormat.title, converted)
    folder = import_model(file, OnnxFormat(), converted, target, shown, typer.echo)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {target.models}")


def _slug(file: Path) -> str:
    import re

    return re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "model"


def _names(said: str | None) -> tuple[str, ...]:
    from training.importers.errors import ModelImportError, first_line

    if not said:
        return ()
    # A thousand names are no path, whose length has an end.
    path = Path(said) if len(said) < 256 and "\0" not in said else None
    try:
        text = path.read_text() if path and path.is_file() else said.replace(",", "\n")
    except (OSError, ValueError) as error:
        raise ModelImportError(f"--class-names {said}: {first_line(error)}") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _pictures(folder: Path | None) -> list[Pixels]:
    if folder is None:
        return []
    from service.runtime.images.decoding import ImageDecodeError, decode_image
    from training.importers.errors import ModelImportError

    found = []
    for path in sorted(folder.iterdir() if folder.is_dir() else []):
        try:
            found.append(decode_image(path.read_bytes(), max_pixels=2**26).pixels)
        except (ImageDecodeError, OSError):
            continue
    if not found:
        raise ModelImportError(f"--pictures {folder}: there are no pictures")
    return found


def _explain(file: Path, tried: list[Candidate]) -> None:
    """Say of every network in a file what it is, and what is missing to be anything else."""
    from training.importers.formats.base import readable_key
    from training.importers.recognition import nearest_candidates

    names = list(dict.fromkeys(candidate.network.name for candidate in tried))
    if not names:
        typer.echo(f"{file}: nothing in it names tensors")
    for name in names:
        here = [candidate for candidate in tried if candidate.network.name == name]
        network = here[0].network
        typer.echo(
            f"{here[0].label}: {len(network.tensors)} tensors, {network.parameters:,} values"
            + (", averaged" if network.averaged else "")
        )
        fitting = [candidate for candidate in here if candidate.converted]
        for candidate in fitting[:1]:
            typer.echo(f"  it is {candidate.format.title}, of {candidate.format.origin}")
            for key in candidate.match.present:
                typer.echo(f"    there: {readable_key(key)}")
            for what, value in candidate.converted.details if candidate.converted else ():
                typer.echo(f"    {what}: {value}")
        if not fitting:
            for candidate in nearest_candidates(here):
                typer.echo(
                    f"  not {candidate.format.title}: {candidate.match.reason or ''}".rstrip(": ")
                )
                for key in candidate.match.missing:
                    typer.echo(f"    missing: {readable_key(key)}")
