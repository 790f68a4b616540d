"""The command `ganymede invert`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli.evaluation_options import JsonOption, ModelsOption, NetworkOption

if TYPE_CHECKING:
    from training.latent.generator import LatentGenerator
    from training.latent.inversion.inverting import InvertedImage


def invert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model by name, name@version or folder.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images to invert.")],
    steps: Annotated[
        int,
        typer.Option(
            min=0,
            max=100_000,
            help="Optimization steps after the encoder; 0 for the encoder alone.",
        ),
    ] = 200,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("inverted"),
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="The class of the images, for models without w.  [default: all are tried]",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, help="Without an encoder, start from the nearest of this many samples."
        ),
    ] = 512,
    learning_rate: Annotated[
        float, typer.Option(min=1e-5, max=10.0, help="The largest learning rate, of Adam.")
    ] = 0.05,
    pixel: Annotated[float, typer.Option(min=0, help="The weight of the pixel loss.")] = 1.0,
    feature: Annotated[float, typer.Option(min=0, help="The weight of the feature loss.")] = 0.5,
    prior: Annotated[
        float,
        typer.Option(min=0, help="The weight of what keeps a latent near the model's latents."),
    ] = 0.02,
    network: NetworkOption = "efficientnet-lite0",
    models: ModelsOption = Path("models"),
    as_json: JsonOption = False,
) -> None:
    """Find the latents of images, so that they can be edited, mixed and interpolated.

    The model's encoder makes the first guess, or the nearest sample if it has none. Gradient steps
    through the generator then improve it. For every image, the folder gets the reconstruction with
    its metadata, the latent as .npz, and an image that compares target, first guess and result.
    Images of another size are cropped to the center and resized.

    Example: ganymede invert stylegan2-flowers rose.jpg --steps 300 --out inverted/
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.features.networks import open_network
    from training.latent.inversion.inverting import first_inversion_name, invert_images
    from training.latent.inversion.model import open_generator, read_images
    from training.latent.inversion.optimization import OptimizationSettings

    names = _names(images, out)
    generator = open_generator(model, models)
    targets = read_images(images, generator.manifest.image_spec)
    settings = OptimizationSettings(steps, learning_rate, pixel, feature, prior)
    features = open_network(network)
    with stage_progress() as show:
        results = invert_images(
            generator, targets, settings, features, show, samples=samples, class_name=class_
        )
    records = [
        _write(generator, out, name, path, result)
        for name, path, result in zip(names, images, results, strict=True)
    ]
    start = first_inversion_name(generator, samples)
    if as_json:
        content = {
            "model": f"{generator.manifest.name}@{generator.manifest.version}",
            "start": start,
            "steps": steps,
            "feature_network": features.title,
            "images": records,
        }
        typer.echo(json.dumps(content, indent=2))
        return
    for path, result in zip(images, results, strict=True):
        before, after = result.before, result.after
        typer.echo(
            f"{path}: PSNR {before.psnr:.2f} dB ({start}), {after.psnr:.2f} dB after {steps:,} "
            f"steps; feature distance {before.features:.3f}, {after.features:.3f}"
        )
    typer.echo(f"wrote {out}; edit the latents with /v1/edit, or `ganymede walk`")


def _files(name: str) -> dict[str, str]:
    """Return the names of the files of one image."""
    return {
        "reconstruction": f"{name}.png",
        "latent": f"{name}.npz",
        "compared": f"{name}-compared.png",
    }


def _names(paths: list[Path], out: Path) -> list[str]:
    """Return a file name in `out` for each path, without extension; equal names get numbers.

    No two images have a file in common. Raises InversionError if an image would be replaced.
    """
    from training.latent.inversion.model import InversionError

    inputs = {path.resolve(): path for path in paths}
    names: list[str] = []
    used: set[str] = set()
    for path in paths:
        name, number = path.stem, 2
        while not used.isdisjoint(_files(name).values()):
            name, number = f"{path.stem}-{number}", number + 1
        names.append(name)
        used.update(_files(name).values())
    for file in sorted(used):
        if (replaced := inputs.get((out / file).resolve())) is not None:
            raise InversionError(f"{replaced} would be replaced by a result: choose another --out")
    return names


def _write(
    generator: LatentGenerator, out: Path, name: str, path: Path, image: InvertedImage
) -> dict[str, Any]:
    """Write the files of one image, and return its record for --json."""
    import numpy as np

    from service.runtime.files import replacing
    from service.runtime.images.encoding import ImageFormat, encode
    from training.latent.inversion.inverting import latent_arrays, reconstruction_file

    latent = io.BytesIO()
    np.savez(latent, **latent_arrays(image))
    contents = {
        "reconstruction": reconstruction_file(generator, image),
        "latent": latent.getvalue(),
        "compared": encode(image.compared(), ImageFormat.PNG, {"compared": path.name}),
    }
    files = {key: out / file for key, file in _files(name).items()}
    for key, file in files.items():
        with replacing(file) as temporary:
            temporary.write_bytes(contents[key])
    return {
        "image": str(path),
        **{key: str(file) for key, file in files.items()},
        "before": image.before.as_json(),
        "after": image.after.as_json(),
        **image.source.parameters(generator.manifest),
    }
