"""The command `ganymede directions`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from training.cli.evaluation_options import JsonOption, ModelsOption, NetworkOption

if TYPE_CHECKING:
    from service.runtime.models.manifest import Manifest
    from training.latent.directions.finding import Settings

_Method = Literal["sefa", "ganspace", "boundary"]


def directions(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model by name, name@version or folder.")
    ],
    method: Annotated[
        _Method | None,
        typer.Option(
            help="How to find directions. Without it, the directions of the model are listed or "
            "changed.",
            show_default=False,
        ),
    ] = None,
    components: Annotated[
        int,
        typer.Option(min=1, max=1000, help="sefa, ganspace: find this many components."),
    ] = 10,
    component: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="sefa, ganspace: keep only this component, by its number; repeatable.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="The name of the direction, one for each --component.  [default: the method and "
            "the number, such as sefa-3, or the two classes]",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="The style layers that the directions move: groups, indices and ranges, such as "
            "coarse or 0,4-7.  [default: all]",
            show_default=False,
        ),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="CLASS CLASS",
            help="boundary: from the first of two classes of the model to the second.",
            show_default=False,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="boundary: label samples with an ONNX classifier, described as a feature network.",
            show_default=False,
        ),
    ] = None,
    attribute: Annotated[
        int, typer.Option(min=0, help="The output of --classifier, numbered from 0.")
    ] = 0,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="IMAGES",
            help="boundary: a folder of images on one side, which the model's encoder inverts.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGES", help="A folder of images on the other side.", show_default=False
        ),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", help="Use samples of this class only.  [default: all]", show_default=False
        ),
    ] = None,
    orthogonal_to: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove what the new directions share with this existing one; repeatable.",
            show_default=False,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Rename a direction.", show_default=False),
    ] = None,
    reverse: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Exchange the two sides of a direction.", show_default=False
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Remove directions; * and ? match names.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=64,
            max=1_000_000,
            help="Latents to find directions with.  [default: 10000; 2000 with --classifier, "
            "which needs their images]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the first sample.")] = 0,
    measure: Annotated[
        int,
        typer.Option(
            min=0, max=10_000, help="Images to measure each direction with; 0 leaves figures out."
        ),
    ] = 64,
    network: NetworkOption = "efficientnet-lite0",
    models: ModelsOption = Path("models"),
    as_json: JsonOption = False,
) -> None:
    """Find directions in the latent space of a model, such as one that makes flowers larger.

    They become part of the model folder: vectors, figures, and a strip for each, an image of the
    same seeds along the direction. The methods sefa and ganspace find directions without labels:
    look at the strips, name those that mean something, and drop the rest. A step of one unit is one
    standard deviation of the latents. Directions of the same name are replaced.

    Example: ganymede directions stylegan2-flowers --method sefa --layers fine

    Then: ganymede directions stylegan2-flowers --rename sefa-3=brightness --drop 'sefa-*'

    Example: ganymede directions stylegan2-flowers --method boundary --between daisy roses
    """
    from training.latent.directions.errors import DirectionsError
    from training.latent.directions.finding import Settings
    from training.latent.directions.latents import find_folder

    folder = find_folder(model, models)
    changes = bool(rename or reverse or drop)
    if method is None:
        if unused := _given(context) - {"model", "rename", "reverse", "drop", "models", "as_json"}:
            option = "--" + min(unused).rstrip("_").replace("_", "-")
            raise DirectionsError(
                f"{option} is for finding directions, but --method is missing: sefa, ganspace or "
                "boundary"
            )
        manifest = _edit(folder, rename, reverse, drop) if changes else None
        _print(folder, manifest, as_json=as_json)
        return
    if (from_ is None) != (to is None):
        raise DirectionsError("--from and --to are needed together")
    if changes:
        raise DirectionsError("--rename, --reverse and --drop are commands of their own")
    numbers = tuple(component) if component else tuple(range(1, components + 1))
    settings = Settings(
        method,
        components=numbers if method != "boundary" else (),
        names=tuple(name or ()),
        layers=layers,
        between=between,
        classifier=classifier,
        attribute=attribute,
        folders=(from_, to) if from_ and to else None,
        class_name=class_,
        orthogonal_to=tuple(orthogonal_to or ()),
        samples=samples or (2000 if classifier else 10_000),
        seed=seed,
        measured=measure,
        network=network,
    )
    _check(settings, chosen=bool(component))
    _print(folder, _find(folder, settings), as_json=as_json)


def _given(context: typer.Context) -> set[str]:
    """Return the names of the parameters that the command line gives."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _check(settings: Settings, *, chosen: bool) -> None:
    """Raise DirectionsError if options do not fit together."""
    from training.latent.directions.errors import DirectionsError

    labeled = [bool(settings.between), bool(settings.classifier), bool(settings.folders)]
    if settings.method == "boundary":
        if chosen:
            raise DirectionsError("--component is for the methods sefa and ganspace")
        if sum(labeled) != 1:
            raise DirectionsError(
                "--method boundary needs labels: either --between, or --classifier, or --from "
                "and --to"
            )
        if settings.between and settings.class_name is not None:
            raise DirectionsError("--class: --between already says which classes")
        expected = 1
    elif any(labeled):
        raise DirectionsError("--between, --classifier and --from are for --method boundary")
    else:
        expected = len(settings.components)
    if settings.attribute and not settings.classifier:
        raise DirectionsError("--attribute is for --classifier")
    if settings.names and len(settings.names) != expected:
        raise DirectionsError(
            f"--name: expected one for each of {expected} directions, got {len(settings.names)}; "
            "select them with --component"
        )
    for option, values in (("--name", settings.names), ("--component", settings.components)):
        if len(set(values)) != len(values):
            raise DirectionsError(f"{option} has the same value twice")


def _find(folder: Path, settings: Settings) -> Manifest:
    """Find directions and add them to the model folder; return its new manifest."""
    from service.runtime.progress import stage_progress
    from training.latent.directions.finding import find_directions
    from training.latent.directions.latents import open_model
    from training.latent.directions.storage import add_directions

    opened = open_model(folder)
    with stage_progress() as show:
        found = find_directions(opened, settings, show, lambda line: typer.echo(line, err=True))
    return add_directions(folder, found)


def _edit(
    folder: Path, rename: list[str] | None, reverse: list[str] | None, drop: list[str] | None
) -> Manifest:
    """Change the directions of a model folder; return its new manifest."""
    from training.latent.directions.errors import DirectionsError
    from training.latent.directions.storage import edit_directions

    names: dict[str, str] = {}
    for each in rename or ():
        old, equals, new = each.partition("=")
        if not equals or old in names:
            raise DirectionsError(f"--rename: expected OLD=NEW, once for each name, got {each!r}")
        names[old] = new
    return edit_directions(folder, names, reverse or (), drop or ())


def _print(folder: Path, manifest: Manifest | None, *, as_json: bool) -> None:
    """Print the directions of a model folder."""
    from service.runtime.models.manifest import read_manifest
    from training.evaluation.report.document import Note, Section, Table
    from training.evaluation.report.terminal import print_line, print_section
    from training.export.additions.card import layer_ranges

    manifest = manifest or read_manifest(folder)
    items = manifest.directions.items if manifest.directions else ()
    if as_json:
        content: dict[str, Any] = {
            "model": f"{manifest.name}@{manifest.version}",
            "directions_sha256": manifest.directions and manifest.directions.sha256,
            "directions": [
                item.model_dump(mode="json", exclude_none=True)
                | ({"strip": str(folder / item.strip)} if item.strip else {})
                for item in items
            ],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    if not items:
        print_line(f"{manifest.name} has no directions; find some with --method sefa")
        return
    rows = []
    for item in items:
        figures = item.figures
        cells = ["", ""]
        if figures is not None:
            cells = [
                f"{figures.effect:.3f} ({figures.random_effect:.3f})",
                f"{figures.drift:.3f} ({figures.random_drift:.3f})",
            ]
        rows.append([item.name, layer_ranges(item.layers), item.description, *cells])
    notes = [Note("in parentheses: random directions of the same length")]
    table = Table(["name", "layers", "found by", "effect", "drift"], rows)
    print_section(Section(f"{manifest.name}: {len(items)} directions", [*notes, table]))
    print_line(f"strips: {folder / 'direction-*.webp'}")
