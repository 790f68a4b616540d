"""The command `ganymede train-encoder`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.evaluation_options import JsonOption, ModelsOption, NetworkOption

if TYPE_CHECKING:
    from training.latent.inversion.exporting import ExportedEncoder


def train_encoder(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model by name, name@version or folder.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run folder: checkpoint and log. A run that exists is continued.  "
            "[default: runs/encoder-MODEL]",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="The number of samples to train on, of the model's own.")
    ] = 100_000,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Samples per step.")] = 16,
    passes: Annotated[
        int, typer.Option(min=1, max=20, help="Passes over each sample in training.")
    ] = 3,
    width: Annotated[
        int, typer.Option(min=8, max=1024, help="Channels of the encoder's feature maps.")
    ] = 128,
    learning_rate: Annotated[
        float, typer.Option(min=1e-7, max=1.0, help="The largest learning rate, of Adam.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The seed of weights and samples.")] = 0,
    photos: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Also measure reconstructions of real images: a known name, a folder, an archive.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split of --photos.  [default: test, if there are splits]", show_default=False
        ),
    ] = None,
    measured: Annotated[
        int, typer.Option(min=10, max=100_000, help="Images of each kind to measure with.")
    ] = 256,
    candidates: Annotated[
        int,
        typer.Option(min=10, max=1_000_000, help="Samples of which the nearest is a baseline."),
    ] = 10_000,
    network: NetworkOption = "efficientnet-lite0",
    force: Annotated[
        bool,
        typer.Option("--force", help="Add the encoder even if it is not better than baselines."),
    ] = False,
    models: ModelsOption = Path("models"),
    as_json: JsonOption = False,
) -> None:
    """Train an encoder that inverts images: it finds the latent of an image in a few passes.

    It is trained on the model's own samples, whose latents are known; no data is needed. It is then
    measured in ONNX Runtime and added to the model folder, if its reconstructions are clearly
    better than the mean image and than the nearest of many samples. Run the command again to
    continue an interrupted training, or to train for more --images.

    Example: ganymede train-encoder stylegan2-flowers --images 100000 --photos flowers
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.features.networks import open_network
    from training.latent.inversion.exporting import add_encoder, measured_encoder
    from training.latent.inversion.measuring import own_images, photographs
    from training.latent.inversion.model import InversionError, open_generator
    from training.latent.inversion.training import EncoderSettings, EncoderTraining

    if split is not None and photos is None:
        raise InversionError("--split is the split of --photos, which is missing")
    generator = open_generator(model, models)
    folder, manifest = generator.model.folder, generator.manifest
    settings = EncoderSettings(batch, passes, seed, learning_rate, width, hidden=2 * width)
    # Missing data and networks are found before the training, which takes long.
    features = open_network(network)
    targets = [own_images(generator, measured)]
    if photos is not None:
        targets.append(photographs(manifest, photos, split, measured))
    training = EncoderTraining(
        generator, settings, out or Path("runs") / f"encoder-{manifest.name}"
    )
    with stage_progress() as show:
        training.train(images, lambda done, total, note: show("training", done, total, note))
        encoder = measured_encoder(training, targets, features, candidates, show)
    passed = not encoder.failures
    if as_json:
        content = {
            "model": f"{manifest.name}@{manifest.version}",
            "run": str(training.out),
            "added": passed or force,
            "failures": encoder.failures,
            "bytes": encoder.path.stat().st_size,
            "encoder": encoder.record.model_dump(mode="json", exclude={"start"}),
        }
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(encoder)
    add_encoder(folder, encoder, force=force)
    if not as_json:
        typer.echo(f"added the encoder to {folder}; next: ganymede invert {manifest.name} IMAGE")


def _print(encoder: ExportedEncoder) -> None:
    """Print the figures of an encoder as a table."""
    from training.evaluation.report.document import Note, Section, Table
    from training.evaluation.report.terminal import print_section

    rows = []
    for figure in encoder.record.figures:
        unit, digits, arrow = (" dB", 2, "↑") if figure.metric == "PSNR" else ("", 3, "↓")
        values = (figure.value, figure.mean_image, figure.nearest)
        rows.append(
            [figure.metric, arrow, figure.images, *(f"{each:.{digits}f}{unit}" for each in values)]
        )
    record = encoder.record
    header = ["metric", "", "images", "encoder", "mean image", "nearest sample"]
    note = Note(
        f"{record.passes} passes, {record.trained_images:,} training images, "
        f"{encoder.path.stat().st_size / 1e6:.1f} MB"
    )
    print_section(Section("Reconstructions", [note, Table(header, rows)]))
