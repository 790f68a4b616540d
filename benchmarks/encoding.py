"""Measure image encoders: PNG, JPEG and WebP against Pillow's fast PNG.

The images are noise with the spectrum and channel correlation of photographs, because flat colors
compress unrealistically well, and white noise does not compress. Before the measurement, lossless
files are decoded and compared with the images.

Example: python -m benchmarks.encoding --rounds 7
"""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from benchmarks.measure import Spread, in_turns, machine, ratios, report, seconds
from service.runtime.images.encoding import ImageFormat, encode, to_image

SIDES = (64, 256, 1024)
MODES = {1: "gray", 3: "RGB", 4: "RGBA"}
BASE = "Pillow PNG, level 1"
# Amplitudes of photographs fall with about this power of the frequency.
_FALL = 1.2

Pixels = NDArray[np.uint8]


def photograph(side: int, channels: int, seed: int = 0) -> Pixels:
    """Return an image ``[side, side, channels] uint8`` with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0

    def layer() -> NDArray[np.float64]:
        spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**_FALL
        values = np.fft.irfft2(spectrum, (side, side))
        scaled: NDArray[np.float64] = values / values.std()
        return scaled

    light = layer()
    layers = [light, *(0.85 * light + 0.5 * layer() for _ in range(channels - 1))]
    return np.clip(np.stack(layers, axis=-1) * 45 + 128, 0, 255).round().astype(np.uint8)


def pillow(pixels: Pixels, level: int) -> bytes:
    """Encode a PNG with Pillow."""
    out = io.BytesIO()
    to_image(pixels).save(out, "PNG", compress_level=level)
    return out.getvalue()


def decoded(file: bytes, mode: str) -> Pixels:
    """Return the pixels ``[H, W, C]`` of a file."""
    with Image.open(io.BytesIO(file)) as image:
        # WebP has no gray images and returns three equal channels.
        pixels = np.asarray(image.convert(mode) if image.mode != mode else image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def measure(side: int, channels: int, rounds: int) -> list[dict[str, object]]:
    """Return one row per encoder: speed and size relative to Pillow's fast PNG."""
    pixels = photograph(side, channels)
    mode = to_image(pixels).mode
    encoders = {
        BASE: lambda: pillow(pixels, 1),
        "Pillow PNG, level 6": lambda: pillow(pixels, 6),
        **{
            f"ours, {kind.name}": lambda kind=kind: encode(pixels, kind, {"seed": 1})
            for kind in ImageFormat
        },
    }
    files = {name: work() for name, work in encoders.items()}
    for name, file in files.items():
        if "JPEG" not in name and not np.array_equal(decoded(file, mode), pixels):
            raise SystemExit(f"{name} changes pixels at {side}, {MODES[channels]}")
    figures = in_turns(
        {name: lambda work=work: seconds(work, 0.1) for name, work in encoders.items()}, rounds
    )
    return [
        {
            "side": side,
            "mode": MODES[channels],
            "encoder": name,
            "ms": Spread.of([1000 * each for each in figures[name]]).as_json(),
            "faster": ratios(figures[BASE], figures[name]).as_json(),
            "size": len(file) / len(files[BASE]),
            "kib": len(file) / 1024,
        }
        for name, file in files.items()
    ]


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    sides: Annotated[list[int], typer.Option("--side", min=8, help="May be repeated.")] = list(  # noqa: B006
        SIDES
    ),
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    rows = [row for side in sides for count in MODES for row in measure(side, count, rounds)]
    table = Table("side", "mode", "encoder", "relative speed", "size", "ms")
    for row in rows:
        cells = [row["side"], row["mode"], row["encoder"], f"{Spread(**row['faster']):.1f}"]
        table.add_row(*map(str, cells), f"{row['size']:.2f}", f"{row['ms']['median']:.2f}")
    packages = ("pillow", "fpng", "isal", "numpy")
    report({"rows": rows, "machine": machine(packages)}, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
