"""Lists of images: grids, arrays, files and notebooks."""

import base64
import io
import json
import pickle
import re
import subprocess

import numpy as np
import PIL.Image
import pytest
from PIL import ImageDraw

from ganymede_client import Client, Images
from tests.support.servers import ganymede


@pytest.fixture(scope="module")
def flowers(service):
    with Client(service.url) as client:
        return client.generate("stylegan2-flowers", seeds=range(5), truncation=0.7)


@pytest.fixture(scope="module")
def sneakers(service):
    with Client(service.url) as client:
        return client.generate("cgan-fashion", seeds=range(4), class_="sneaker")


def test_images_are_a_sequence(flowers):
    assert len(flowers) == 5
    assert flowers[-1].seed == 4
    assert isinstance(flowers[1:3], Images)
    assert flowers[1:3].seeds == [1, 2]
    assert (flowers[:1] + flowers[4:]).seeds == [0, 4]
    assert repr(flowers) == "<Images: 5 of stylegan2-flowers@1>"


def test_grid_places_images_in_rows(flowers, sneakers):
    grid = np.asarray(flowers.grid(columns=3, gap=1))
    assert grid.shape == (65, 98, 3)
    for i, image in enumerate(flowers):
        top, left = 33 * (i // 3), 33 * (i % 3)
        assert np.array_equal(grid[top : top + 32, left : left + 32], image)
    assert (grid[33:, 66:] == 255).all()
    assert sneakers.grid().mode == "L"
    assert (sneakers[:2] + flowers[:2]).grid().mode == "RGB"
    with pytest.raises(ValueError, match="there are no images"):
        Images([]).grid()


def test_images_of_different_shapes_are_no_array(flowers, sneakers):
    with pytest.raises(ValueError, match="images of one shape"):
        (flowers + sneakers).numpy()
    assert sneakers.numpy().shape == (4, 28, 28, 1)


def test_saved_files_are_reproduced_by_the_service(flowers, tmp_path):
    paths = flowers[:2].save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["0-seed-0.png", "1-seed-1.png"]
    assert [path.read_bytes() for path in paths] == [image.file for image in flowers[:2]]
    metadata = json.loads(PIL.Image.open(paths[1]).text["ganymede"])
    assert (metadata["seed"], metadata["truncation"]) == (1, 0.7)
    done = subprocess.run(
        ganymede("reproduce", paths[1], "--models", "models"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_saving_never_replaces_other_files(flowers, sneakers, tmp_path):
    flowers.save(tmp_path)
    flowers.save(tmp_path)  # The same files.
    (tmp_path / "1-seed-1.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"-seed-\d\.png exists with other content"):
        sneakers.save(tmp_path)
    assert (tmp_path / "0-seed-0.png").read_bytes() == flowers[0].file
    assert (tmp_path / "1-seed-1.png").read_bytes() == b"mine"
    sneakers.save(tmp_path, overwrite=True)
    assert (tmp_path / "1-seed-1.png").read_bytes() == sneakers[1].file
    assert not list(tmp_path.glob(".*"))


def test_notebooks_show_images_with_captions(flowers):
    html = flowers._repr_html_()
    assert html.count("<img ") == 5
    assert html.count('src="data:image/png;base64,') == 5
    assert "repeat(5,max-content)" in html
    for image in flowers:
        assert f"{image.seed} {image.provenance.class_}</figcaption>" in html
        assert image.url.replace("&", "&amp;") in html
        assert f'alt="{image.provenance.describe()}"' in html
    assert not re.search(r"<script|javascript:", html)


def test_displays_without_html_show_the_grid(flowers, tmp_path):
    (tmp_path / "grid.png").write_bytes(flowers._repr_png_())
    assert np.array_equal(PIL.Image.open(tmp_path / "grid.png"), flowers.grid())
    assert Images([])._repr_png_() is None


def test_large_lists_are_shown_as_one_reduced_image(flowers, tmp_path):
    many = Images([*flowers] * 1000, columns=2500)
    assert many._repr_html_() is None
    (tmp_path / "grid.png").write_bytes(many._repr_png_())
    assert 0 < max(PIL.Image.open(tmp_path / "grid.png").size) <= 2048


def test_single_image_shows_its_provenance(flowers):
    assert (
        repr(flowers[2]) == "<Image: stylegan2-flowers@1, seed 2, roses, truncation 0.7, RGB 32×32>"
    )
    html = flowers[2]._repr_html_()
    assert "2 roses</figcaption>" in html
    assert html.count("<img ") == 1
    edited = flowers[2].numpy()
    edited[:] = 0  # A copy, not the pixels of the image.
    assert np.asarray(flowers[2]).any()


def test_edited_image_is_shown_as_it_is_now(flowers):
    image = pickle.loads(pickle.dumps(flowers[0]))
    assert not image.is_edited
    ImageDraw.Draw(image).rectangle((0, 0, 31, 31), fill="red")
    assert image.is_edited
    html = image._repr_html_()
    assert "(edited)</figcaption>" in html
    shown = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    assert PIL.Image.open(io.BytesIO(shown)).getpixel((5, 5)) == (255, 0, 0)
    assert not flowers[0].is_edited
