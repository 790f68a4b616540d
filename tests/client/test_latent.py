"""Edits and inversion with the client, against the real service."""

import numpy as np
import pytest

from ganymede_client import Client, InvalidRequest
from tests.support.drawn_models import LAYERS, SIZE, W


@pytest.fixture
def client(drawn_server):
    with Client(drawn_server.url) as client:
        yield client


def test_edits_a_strip_and_a_grid(client):
    images = client.edit("movable", {"bright": [-1, 0, 1]}, seeds=[1, 2], return_=["w"])
    assert (len(images), images.columns) == (6, 3)
    assert images[0].arrays["edited_w"].shape == (LAYERS, W)
    (original,) = client.generate("movable", seed=1)
    assert np.array_equal(images[1], original)
    assert images[0].provenance.describe() == "movable@1, seed 1, moved along bright -1"
    grid = client.edit_grid("movable", {"bright": np.array([-1, 0, 1])}, images=[1, original])
    assert np.array_equal(np.asarray(grid)[:SIZE, :SIZE], images[0])
    with pytest.raises(ValueError, match="an edited image is no source"):
        client.generate("movable", images=[images[0]])


def test_models_describe_directions_and_encoder(client):
    model = client.model("movable")
    assert [each["name"] for each in model.directions] == ["bright", "warm", "turn"]
    assert model.encoder["passes"] == 5
    assert client.direction_strip("movable", "bright").size == (5 * SIZE, SIZE)
    assert client.model("painted").directions is None


def test_inverts_images_and_edits_the_result(client):
    originals = client.generate("movable", seeds=[1, 2])
    found = client.invert("movable", [np.asarray(each) for each in originals])
    assert [each.arrays["w"].shape for each in found] == [(LAYERS, W)] * 2
    assert found[0].provenance.parameters["inversion"]["psnr"] > 30
    again = client.generate("movable", images=[found[0]])
    assert np.array_equal(again[0], found[0])
    edited = client.edit("movable", {"bright": 0}, w=[found[1].arrays["w"]])
    assert np.array_equal(edited[0], found[1])
    dog = client.generate("movable-classes", seed=1, class_="dog")[0]
    (image,) = client.invert("movable-classes", dog, class_=1)
    assert image.provenance.class_ == "dog"
    with pytest.raises(InvalidRequest, match="has no encoder"):
        client.invert("painted", originals[0])
