#!/usr/bin/env python3
"""Measure what survives of the origin of an image when its file is processed: docs/provenance.md.

    python scripts/provenance.py --models models

Images of included models are written in each format, signed by a certificate made for this run, and
processed as people and software do. Each row of the table is the result of `ganymede verify`, for
all images alike; a row in which the images differ shows every result. Rows that need exiftool or
Chromium are left out where they are not installed.
"""

import argparse
import base64
import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from service.api.responses import identity
from service.offline.verification.verify import Verdict, Verification, verify
from service.runtime import requests
from service.runtime.credentials.reading import Validity
from service.runtime.credentials.signing import Signer
from service.runtime.generation import execute, image_plan
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from tests.support.certificates import write_signing_files

MODELS = ("stylegan2-flowers", "biggan-flowers", "dcgan-fashion")
SEEDS = (7, 8, 9)
COLUMNS = ("mark", "parameters", "credential", "`ganymede verify`")


def pillow(**options: object) -> Callable[[Path, Path], None]:
    """Return an operation that opens an image and saves it again with Pillow."""

    def save(source: Path, target: Path) -> None:
        with Image.open(source) as image:
            chosen = options
            if target.suffix == ".jpg" and image.mode not in ("L", "RGB"):
                image = image.convert("RGB")  # noqa: PLW2901
            image.save(target, **chosen)

    return save


def resized(source: Path, target: Path) -> None:
    """Halve the size with Pillow."""
    with Image.open(source) as image:
        image.resize((image.width // 2, image.height // 2)).save(target)


def converted_keeping(source: Path, target: Path) -> None:
    """Save as JPEG 90 with Pillow by a program that copies EXIF and XMP."""
    with Image.open(source) as image:
        image.load()
        kept = {"exif": image.getexif(), "xmp": image.info.get("xmp", b"")}
        image.convert("RGB").save(target, quality=90, **kept)


def stripped(source: Path, target: Path) -> None:
    """Remove all metadata with exiftool."""
    shutil.copy(source, target)
    subprocess.run(
        ["exiftool", "-q", "-all=", "-overwrite_original", target], check=True, capture_output=True
    )


def retitled(source: Path, target: Path) -> None:
    """Add a title with exiftool."""
    shutil.copy(source, target)
    command = ["exiftool", "-q", "-XMP-dc:Title=Flower", "-overwrite_original", target]
    subprocess.run(command, check=True, capture_output=True)


def screenshot(source: Path, target: Path) -> None:
    """Show the image in Chromium and take a screenshot."""
    with Image.open(source) as image:
        size = image.size
    data = base64.b64encode(source.read_bytes()).decode()
    media_type = f"image/{'jpeg' if source.suffix == '.jpg' else source.suffix[1:]}"
    page = target.with_suffix(".html")
    page.write_text(f'<body style="margin:0"><img src="data:{media_type};base64,{data}">')
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={size[0]},{size[1]}", f"--screenshot={target}", f"file://{page}"]
    subprocess.run(command, check=True, capture_output=True)


def copied(source: Path, target: Path) -> None:
    """Copy the file."""
    shutil.copy(source, target)


def operations() -> Iterator[tuple[str, str | None, Callable[[Path, Path], None]]]:
    """Yield operations: name, suffix of the result (None for that of the source), function."""
    yield "copied, sent as a file", None, copied
    yield "opened and saved with Pillow, same format", None, pillow()
    yield "saved as JPEG 90 with Pillow", ".jpg", pillow(quality=90)
    yield "saved as JPEG 90 with Pillow, EXIF and XMP copied", ".jpg", converted_keeping
    yield "saved as PNG with Pillow", ".png", pillow()
    yield "half the size with Pillow, same format", None, resized
    if shutil.which("exiftool"):
        yield "title added with exiftool", None, retitled
        yield "`exiftool -all=`", None, stripped
    if shutil.which("chromium"):
        yield "screenshot in Chromium", ".png", screenshot


def states(result: Verification) -> tuple[str, ...]:
    """Return the cells of one image."""
    credential = {
        None: "lost",
        Validity.TRUSTED: "valid",
        Validity.UNTRUSTED: "not trusted",
        Validity.INVALID: "invalid",
        Validity.UNREAD: "not read",
    }[result.credential and result.credential.validity]
    answer = str(result.verdict)
    if result.verdict is Verdict.VERIFIED and result.reproduction is not None:
        answer += ": pixels equal"
    elif result.verdict is Verdict.CONTRADICTED and result.reproduction is not None:
        answer += ": pixels differ" if not result.reproduction.equal else ": credential"
    return (
        "kept" if result.source_type else "lost",
        "kept" if result.parameters else "lost",
        credential,
        answer,
    )


def main() -> None:
    """Print the table, and the cost of signing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    models = parser.parse_args().models
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_signing_files(folder / "signing")
        signer, anchors = Signer(files.certificate, files.key), files.root.read_text()
        images = []
        for model_name in MODELS:
            model = Model(models / model_name / "1", Provider.CPU, plan_for(Provider.CPU))
            for seed in SEEDS:
                source = requests.image_source(
                    model.manifest, seed=seed, class_=None, truncation=None
                )
                (pixels,) = execute(image_plan(model.manifest, [source]), model.run, 16)
                images.append((pixels, identity(model) | source.parameters(model.manifest)))
        for image_format in ImageFormat:
            print(f"\n{image_format}\n")
            print("| what happens to the file |", " | ".join(COLUMNS), "|")
            print("|---" * (len(COLUMNS) + 1) + "|")
            sources = []
            for i, (pixels, provenance) in enumerate(images):
                content = encode(pixels, image_format, provenance)
                path = folder / f"{i}.{image_format.extension}"
                path.write_bytes(signer.sign(content, image_format.media_type, provenance))
                sources.append(path)
            for title, suffix, operation in operations():
                rows = set()
                for path in sources:
                    target = folder / f"out-{path.stem}{suffix or path.suffix}"
                    operation(path, target)
                    rows.add(states(verify(target, models, anchors)))
                cells = [" or ".join(sorted(set(column))) for column in zip(*rows, strict=True)]
                print(f"| {title} |", " | ".join(cells), "|", flush=True)
        print_cost(images, signer)


def print_cost(images: list[tuple], signer: Signer) -> None:
    """Print bytes and milliseconds that a signature adds."""
    pixels, provenance = images[0]
    print()
    for side in (64, 256, 1024):
        image = Image.fromarray(pixels).resize((side, side))
        for image_format in ImageFormat:
            out = io.BytesIO()
            image.save(out, image_format.value)
            content = out.getvalue()
            times = []
            for _ in range(30):
                begin = time.process_time()
                signed = signer.sign(content, image_format.media_type, provenance)
                times.append(time.process_time() - begin)
            print(
                f"{side}x{side} {image_format}: {len(content):,} bytes, "
                f"+{len(signed) - len(content):,} bytes, {1000 * sorted(times)[15]:.1f} ms of CPU"
            )


if __name__ == "__main__":
    main()
