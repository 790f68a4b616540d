"""Make the images of the README and the site from the included models, through a real server.

    python -m scripts.documentation.images

Writes `walk.webp`, `walk-MODEL.webp` of each featured model, `style-mixing.webp` and `edits.webp`
to docs/images/, and `playground.webp` and `playground-edit.webp` if Playwright and Chromium are
installed.
"""

import io
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from scripts.documentation.featured import FEATURED, FOLDER, animation
from service.runtime.files import replacing
from tests.support.servers import serving

ROOT = Path(__file__).parents[2]

_FRAMES = 45
_FRAME_MS = 80
_TILE = 88
_GAP = 6
# The seeds through which the walk of each tile leads, and back to the first.
_SOURCES = [[seed, seed + 100, seed + 200] for seed in range(1, 9)]
_FEATURED_COLUMNS = 5
_FEATURED_TILE, _FEATURED_QUALITY = 96, 45
# The strips of the edits: three directions, and the seeds of the rows of each.
_DIRECTIONS = ("size", "red", "warmth")
_EDITED = [1, 4]
# The view of edited images.
_EDIT_VIEW = "model=stylegan2-flowers&panel=edit&seed=2&directions=size:-1.5,red:1"
# Images of the wall that are kept in the tray.
_KEPT = (0, 5, 9, 13, 19)
_IMAGES_ARE_SHOWN = """() => {
    const images = [...document.querySelectorAll(".wall img")];
    return images.length > 24 && images.every((image) => image.complete && image.naturalWidth);
}"""


def main() -> int:
    """Write the images."""
    FOLDER.mkdir(exist_ok=True)
    with (
        serving(ROOT / "models", "--processes", "1") as server,
        server.client(timeout=300) as client,
    ):
        write_walk(client, FOLDER / "walk.webp")
        for model in FEATURED:
            write_featured(client, model, animation(model))
        write_style_mixing(client, FOLDER / "style-mixing.webp")
        write_edits(client, FOLDER / "edits.webp")
        write_playground(server.url, FOLDER)
    return 0


def write_walk(client: httpx.Client, file: Path) -> None:
    """Write an animation of a row of garments and a row of flowers."""
    garments = [walk(client, "dcgan-fashion", sources) for sources in _SOURCES]
    flowers = [walk(client, "stylegan2-flowers", sources, truncation=0.7) for sources in _SOURCES]
    write_animation([garments, flowers], file)


def write_featured(client: httpx.Client, model: str, file: Path) -> None:
    """Write an animation of two rows of walks; each column of a conditional model has a class."""
    manifest = client.get(f"/v1/models/{model}").raise_for_status().json()["manifest"]
    classes = manifest["classes"]
    walks = []
    for number in range(2 * _FEATURED_COLUMNS):
        label = {"class": number % _FEATURED_COLUMNS % len(classes)} if classes else {}
        sources = [{"seed": seed, **label} for seed in (number, number + 100, number + 200)]
        walks.append(walk(client, model, sources))
    rows = [walks[:_FEATURED_COLUMNS], walks[_FEATURED_COLUMNS:]]
    write_animation(rows, file, tile=_FEATURED_TILE, quality=_FEATURED_QUALITY)


def write_animation(
    rows: Sequence[Sequence[Sequence[Image.Image]]],
    file: Path,
    tile: int = _TILE,
    quality: int = 65,
) -> None:
    """Write rows of walks as an animated WebP file."""
    frames = [sheet([[tiles[n] for tiles in row] for row in rows], tile) for n in range(_FRAMES)]
    with replacing(file) as out:
        frames[0].save(
            out,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=_FRAME_MS,
            loop=0,
            quality=quality,
            method=4,
        )


def walk(
    client: httpx.Client, model: str, sources: Sequence[int | dict[str, Any]], **options: float
) -> list[Image.Image]:
    """Return the frames of a latent walk through the images of some sources, and back."""
    body = {"model": model, "sources": sources, "frames": _FRAMES, "loop": True, "format": "npy"}
    response = client.post("/v1/interpolate", json=body | options).raise_for_status()
    pixels = np.load(io.BytesIO(response.content))
    frames = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return [Image.fromarray(frame) for frame in frames]


def write_style_mixing(client: httpx.Client, file: Path) -> None:
    """Write the style-mixing grid of StyleGAN's paper."""
    body = {
        "model": "stylegan2-flowers",
        "rows": [{"seed": n, "class": n} for n in (0, 3, 4)],
        "columns": [{"seed": n, "class": n % 5} for n in range(10, 18)],
        "layers": "coarse",
        "truncation": 0.7,
        "format": "png",
    }
    grid = Image.open(
        io.BytesIO(client.post("/v1/mix-styles", json=body).raise_for_status().content)
    )
    larger = grid.resize((grid.width * 3, grid.height * 3), Image.Resampling.BICUBIC)
    with replacing(file) as out:
        larger.save(out, "WEBP", quality=85, method=6)


def write_edits(client: httpx.Client, file: Path) -> None:
    """Write strips of two seeds along each of three directions."""
    strips = []
    for name in _DIRECTIONS:
        body = {
            "model": "stylegan2-flowers",
            "seeds": _EDITED,
            "directions": {name: [-3, -2, -1, 0, 1, 2, 3]},
            "truncation": 0.7,
            "format": "npy",
        }
        response = client.post("/v1/edit", json=body).raise_for_status()
        pixels = np.load(io.BytesIO(response.content))
        strips += pixels.reshape(len(_EDITED), -1, *pixels.shape[1:]).tolist()
    rows = [[Image.fromarray(np.array(image, np.uint8)) for image in strip] for strip in strips]
    with replacing(file) as out:
        sheet(rows).save(out, "WEBP", quality=85, method=6)


def sheet(rows: Sequence[Sequence[Image.Image]], side: int = _TILE) -> Image.Image:
    """Return a sheet of tiles on white, enlarged to `side` pixels."""
    step = side + _GAP
    width, height = len(rows[0]) * step - _GAP, len(rows) * step - _GAP
    out = Image.new("RGB", (width, height), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            larger = tile.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            out.paste(larger, (x * step, y * step))
    return out


def write_playground(url: str, folder: Path) -> None:
    """Write screenshots of the playground: its wall, and images that are edited."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        print("no screenshots are made: Playwright or Chromium is missing", file=sys.stderr)
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": 1200, "height": 760}, color_scheme="light", reduced_motion="reduce"
        )
        page.goto(f"{url}/#{_EDIT_VIEW}")
        page.get_by_role("button", name="Add an image").click()
        page.get_by_label("Seed of image 2", exact=True).fill("13")
        page.get_by_label("Strip along").select_option("size")
        page.locator(".strip .tile.is-loaded").nth(13).wait_for()
        page.locator("#tray").evaluate("element => element.hidden = true")
        page.wait_for_timeout(1000)  # the images fade in
        save_screenshot(page.screenshot(full_page=True), folder / "playground-edit.webp")
        page.goto(f"{url}/#model=stylegan2-flowers&panel=wall&seed=0")
        page.reload()
        page.wait_for_function(_IMAGES_ARE_SHOWN)
        for seed in _KEPT:
            page.locator(".wall").get_by_role("button", name=re.compile(f", seed {seed}$")).click()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(1000)  # the images fade in
        save_screenshot(page.screenshot(), folder / "playground.webp")
        browser.close()


def save_screenshot(png: bytes, file: Path) -> None:
    """Write a screenshot as a WebP file."""
    with replacing(file) as out:
        Image.open(io.BytesIO(png)).convert("RGB").save(out, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    sys.exit(main())
