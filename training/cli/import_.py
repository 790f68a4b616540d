"""The command `ganymede import`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.importers.import_model import Pixels
    from training.importers.preview.variants import Variants


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="The checkpoint: .pt, .pth, .ckpt, .safetensors, .pkl, .onnx, or .param of ncnn."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model.  [default: from the file name]", show_default=False),
    ] = None,
    models: Annotated[
        Path, typer.Option(help="Model repository to write to.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
    version: Annotated[
        str | None,
        typer.Option(
            help="Version of the model.  [default: the next free number]", show_default=False
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show the networks in the file and the formats they match. Writes nothing.",
        ),
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a sheet of images for each plausible choice, and no model.",
        ),
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE",
            help="Choose what the tensors do not determine by an image of the original: samples of "
            "a generator, or twice for image-to-image: an input and its output.",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Network to import, if the file contains several.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of classes, if the first layer takes z and a one-hot class."
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(help="Class names: cat,dog,… or a file with one name per line."),
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels of the images used in training.")
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4,
            help="Image channels (1 gray, 3 RGB, 4 RGBA), if the file does not determine them.",
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="Activation between the layers: relu, leaky_relu, elu, selu, gelu, silu."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Activation after the last layer: tanh, sigmoid or none.")
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(
            help="Batch normalization statistics: picture (of each image), running (averages of "
            "the training) or standing (computed again)."
        ),
    ] = None,
    latent: Annotated[
        str | None,
        typer.Option(help="Distribution of z: normal, uniform (-1 to 1) or unit (0 to 1)."),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            help="Another property that the tensors do not determine, as NAME=VALUE. The output "
            "lists the properties of a file. Repeatable."
        ),
    ] = None,
    allow_unused: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Import without the tensors whose names match, such as 'encoder.*'. Repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Training configuration, YAML or JSON.  "
            "[default: a configuration in the folder of the checkpoint]",
            show_default=False,
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Input or output of an ONNX graph: z=NAME, image=NAME, pixels=NAME, class=NAME…",
        ),
    ] = None,
    range_: Annotated[
        str | None,
        typer.Option(
            "--range", help="Values of black and white in the output: -1,1 or 0,1 or 0,255."
        ),
    ] = None,
    input_range: Annotated[
        str | None,
        typer.Option(
            help="Values of black and white in input images. [default: --range for ONNX]",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Axis order of an ONNX graph's images: nchw or nhwc.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task of an ONNX graph with input images: translate, colorize, upscale."),
    ] = None,
    z_dim: Annotated[
        int | None,
        typer.Option(min=1, help="Dimension of z, if an ONNX graph does not determine it."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            help="Folder of input images for the preview of an image-to-image model.",
        ),
    ] = None,
    fp16: Annotated[
        bool,
        typer.Option(
            "--half", help="Store the weights as fp16, and report how much the images change."
        ),
    ] = False,
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable",
            help="Keep the PyTorch weights of the generator beside the graphs, so that ganymede "
            "train RECIPE from=MODEL can continue from them.",
        ),
    ] = False,
    license_: Annotated[
        str, typer.Option("--license", help="License of the weights, for the model card.")
    ] = "unknown",
) -> None:
    """Convert a generator that was trained elsewhere to a model folder.

    Nothing in the file is executed. The format is recognized by the names and shapes of the
    tensors.

    Example: ganymede import latest_net_G.pth --name horse2zebra
    """
    from service.runtime.models.folders import slug
    from training.cli.import_graphs import import_as_graph
    from training.cli.import_output import print_candidates, print_summary
    from training.importers.errors import ModelImportError, UnknownFormatError
    from training.importers.export_advice import onnx_export_advice
    from training.importers.import_model import ImportTarget, import_model
    from training.importers.left_out import left_out_state
    from training.importers.options import UserOptions
    from training.importers.preview.variants import Variants
    from training.importers.reading.files import read_file
    from training.importers.reading.weights import find_networks
    from training.importers.recognition import match_formats, select_candidate

    options = UserOptions(
        classes=classes,
        class_names=_parse_class_names(class_names),
        side=side,
        channels=channels,
        activation=activation,
        output=output,
        statistics=statistics,
        latent=latent,
        range=range_,
        input_range=input_range,
        assume=_parse_assumptions(assume or ()),
        allow_unused=tuple(allow_unused or ()),
        config=_read_config(file, config),
    )
    target = ImportTarget(models, name or slug(file.stem), version, license_, fp16, trainable)
    graph_flags = {"--map": map_, "--layout": layout, "--task": task, "--z-dim": z_dim}
    other_flags = {
        "--network": network, "--config": config, "--preview": preview, "--like": like,
        "--allow-unused": allow_unused, "--trainable": trainable,
    }  # fmt: skip
    preview_images = _read_images(images)
    if import_as_graph(
        file, graph_flags, other_flags, options, target, preview_images, explain=explain
    ):
        return
    content = read_file(file)
    try:
        candidates = match_formats(find_networks(content), options)
    except ModelImportError as error:
        raise type(error)(f"{file}: {error}") from error
    if explain:
        print_candidates(file, candidates)
        return
    comparing = preview is not None or bool(like)
    try:
        best = select_candidate(candidates, network, undetermined=comparing)
    except ModelImportError as error:
        located = ModelImportError(f"{file}: {error}")
        if isinstance(error, UnknownFormatError):
            located.advice = onnx_export_advice(file, [each.network for each in candidates])
        raise located from error
    if comparing:
        settings = _compare(Variants(best, options), preview, like or [], preview_images)
        if settings is None:
            return
        candidates = match_formats(find_networks(content), options.merged(settings))
        best = select_candidate(candidates, network)
    assert best.converted is not None  # noqa: S101 - for the type checker
    left_out = [*best.converted.left_out, *left_out_state(content)]
    converted = replace(best.converted, left_out=left_out)
    print_summary(best.label, best.format.title, converted)
    folder = import_model(file, best.format, converted, target, preview_images, typer.echo)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {models}")


def _read_config(file: Path, path: Path | None) -> dict[str, Any]:
    """Read the training configuration of `--config`, or from the checkpoint's folder."""
    from training.importers.errors import ModelImportError
    from training.importers.reading.files import find_config, read_config

    if path is not None:
        return read_config(path)
    found = find_config(file)
    if found is None:
        return {}
    try:
        return read_config(found)
    except ModelImportError:
        # The file was found automatically, so it may not belong to the checkpoint.
        return {}


def _compare(
    variants: Variants, preview: Path | None, like: Sequence[Path], images: list[Pixels]
) -> dict[str, str] | None:
    """Write the sheets of `--preview`, and choose by the images of `--like`.

    Returns the chosen properties, or None if no model is to be written.
    """
    from training.importers.preview.likeness import choose, read_original
    from training.importers.preview.sheets import write_sheets

    base = variants.base()
    original = read_original(like, base.converted) if like else None
    if preview is not None:
        inputs = original.inputs if original else variants.inputs(images)
        write_sheets(variants, preview, inputs, typer.echo)
    if original is None:
        return None
    variant = choose(variants, original, typer.echo)
    typer.echo(f"chosen: {variant.arguments or 'the assumed values'}")
    return None if preview is not None else dict(variant.settings)


def _parse_assumptions(texts: Sequence[str]) -> dict[str, str]:
    """Parse `--assume`: NAME=VALUE. Raises ImportOptionError."""
    from training.importers.errors import ImportOptionError

    assumptions = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ImportOptionError(f"--assume {text}: expected NAME=VALUE, such as slope=0.2")
        assumptions[name.strip().replace("-", "_")] = value.strip()
    return assumptions


def _parse_class_names(text: str | None) -> tuple[str, ...]:
    """Parse `--class-names`: a comma-separated list, or the path of a file.

    Raises ModelImportError if the file cannot be read.
    """
    from service.runtime.errors import first_line
    from training.importers.errors import ModelImportError

    if not text:
        return ()
    # The operating system raises an error for paths that are too long or contain a null byte.
    path = Path(text) if len(text) < 256 and "\0" not in text else None
    try:
        names = path.read_text() if path and path.is_file() else text.replace(",", "\n")
    except (OSError, ValueError) as error:
        raise ModelImportError(f"--class-names {text}: {first_line(error)}") from error
    return tuple(line.strip() for line in names.splitlines() if line.strip())


def _read_images(folder: Path | None) -> list[Pixels]:
    """Return the images in a folder, and skip other files.

    Raises ModelImportError if the folder contains no images.
    """
    if folder is None:
        return []
    from service.runtime.images.decoding import ImageDecodeError, decode_image
    from training.importers.errors import ModelImportError

    images = []
    for path in sorted(folder.iterdir() if folder.is_dir() else []):
        try:
            images.append(decode_image(path.read_bytes(), max_pixels=2**26).pixels)
        except (ImageDecodeError, OSError):
            continue
    if not images:
        raise ModelImportError(f"--pictures {folder}: the folder contains no images")
    return images
