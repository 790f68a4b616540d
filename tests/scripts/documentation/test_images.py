"""The images of the README are small, and can be made again from the included models."""

import pytest
from PIL import Image

from scripts.documentation.images import FOLDER, sheet, walk, write_style_mixing
from scripts.documentation.site import ROOT
from tests.support.servers import serving


def test_images_are_small_and_shown():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "".join(document.read_text() for document in documents)
    for file in FOLDER.glob("*.webp"):
        assert file.stat().st_size < 600_000
        assert f"images/{file.name}" in text


@pytest.mark.slow
def test_images_are_made_from_the_included_models(tmp_path):
    with (
        serving(ROOT / "models") as server,
        server.client(timeout=300) as client,
    ):
        frames = walk(client, "dcgan-fashion", [1, 2])
        assert {(frame.mode, frame.size) for frame in frames} == {("L", (28, 28))}
        write_style_mixing(client, tmp_path / "style-mixing.webp")
    committed = Image.open(FOLDER / "walk.webp")
    assert committed.n_frames == len(frames)
    assert committed.size == sheet([frames[:8], frames[:8]]).size
    made = Image.open(tmp_path / "style-mixing.webp")
    assert made.size == Image.open(FOLDER / "style-mixing.webp").size
