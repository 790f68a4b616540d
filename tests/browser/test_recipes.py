"""The commands and programs that the page shows generate the image that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.marks import slow_except

CLIENT = Path(__file__).parents[2] / "client" / "src"

# The URL of a view, what is done there, and the pattern of the file that the recipes write.
VIEWS = {
    "seed": "/#model=biggan-flowers&panel=wall&seed=7&class=roses&truncation=0.5",
    "mixture": "/#model=stylegan2-flowers&panel=matrix",
    "frame": "/#model=dcgan-fashion&panel=pair",
    "walk": "/#model=cgan-fashion&panel=walk&class=bag",
    "prompt": "/#model=captioned&panel=prompts&seed=7&prompt=a%20%27big%27%20cat&n=2",
    "edit": "/#model=movable&panel=edit&seed=3&directions=bright:1.5,warm:-2&layers=fine",
}


def show_details(page: Page, view: str) -> None:
    panel = page.locator("#panel")
    if view in ("frame", "walk", "edit"):
        panel.get_by_role("button", name="Details", exact=True).click()
    elif view == "mixture":
        panel.locator("tbody td .tile-image").first.click()
    else:
        panel.locator(".tiles .tile-image").first.click()


def recipe(page: Page, title: str) -> str:
    block = page.get_by_role("group", name=title).locator("code")
    expect(block).not_to_be_empty()
    return block.inner_text()


def frames(path: Path) -> list[np.ndarray]:
    """The frames of an image or animation as `uint8 [H, W, 3]`."""
    image = Image.open(path)
    read = []
    for i in range(getattr(image, "n_frames", 1)):
        image.seek(i)
        read.append(np.asarray(image.convert("RGB")))
    return read


@pytest.mark.parametrize("view", slow_except("edit", VIEWS))
def test_recipes_generate_what_the_page_shows(
    open_page, server, latent_server, output_server, view, tmp_path
):
    of = {"edit": latent_server, "prompt": output_server}.get(view, server)
    page = open_page(VIEWS[view], of=of)
    show_details(page, view)
    curl, python = recipe(page, "curl"), recipe(page, "Python")
    with page.expect_download() as waiting:
        page.locator("#details").get_by_role("button", name=re.compile("Download as")).first.click()
    downloaded = frames(waiting.value.path())

    folders = {"curl": tmp_path / "curl", "python": tmp_path / "python"}
    for folder in folders.values():
        folder.mkdir()
    subprocess.run(["bash", "-ec", curl], cwd=folders["curl"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(CLIENT)}
    command = [sys.executable, "-c", python]
    subprocess.run(command, cwd=folders["python"], check=True, env=environment)
    for folder in folders.values():
        (path,) = [path for path in folder.iterdir() if path.suffix != ".zip"]
        assert path.stem == Path(waiting.value.suggested_filename).stem
        written = frames(path)
        assert len(written) == len(downloaded)
        assert all((a == b).all() for a, b in zip(written, downloaded, strict=True))
