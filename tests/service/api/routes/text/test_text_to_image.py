"""`POST /v1/text-to-image`."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.runtime.images import xmp
from service.runtime.images.encoding import read_provenance
from service.runtime.images.xmp import SourceType
from tests.support.output_models import CAPTIONED, ENCODER, MAX_TOKENS, TEXT_MODEL


def post(client, **body):
    return client.post("/v1/text-to-image", json={"model": CAPTIONED, **body})


def pixels(client, **body):
    response = post(client, **body, format="npy")
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def provenance(file):
    return read_provenance(Image.open(io.BytesIO(file)))


def test_image_depends_on_seed_and_prompt(client):
    first = pixels(client, prompt="abc", seed=5)
    assert np.array_equal(first, pixels(client, prompt="abc", seed=5))
    assert not np.array_equal(first, pixels(client, prompt="xyz", seed=5))
    assert not np.array_equal(first, pixels(client, prompt="abc", seed=6))


def test_prompts_share_a_batch_and_do_not_affect_each_other(client):
    prompts = ["abc", "", "a much longer prompt than that", "x" * 3000]
    together = pixels(client, prompt=prompts, n=2, seed=10)
    alone = [pixels(client, prompt=each, n=2, seed=10 + 2 * i) for i, each in enumerate(prompts)]
    assert np.array_equal(together, np.concatenate(alone))


def test_metadata_records_prompt_and_encoder(client):
    response = post(client, prompt="abc", seed=5, format="png")
    recorded = provenance(response.content)
    assert recorded["prompt"] == "abc"
    assert recorded["encoder_digest"] == client.get(f"/v1/models/{ENCODER}").json()["digest"]
    assert recorded["seed"] == 5


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_formats_of_a_single_image(client, image_format):
    response = post(client, prompt="abc", format=image_format)
    assert response.headers["content-type"] == f"image/{image_format}"
    assert provenance(response.content)["prompt"] == "abc"
    assert xmp.read_source_type(response.content) == SourceType.GENERATED.uri


def test_formats_of_several_images(client):
    archive = zipfile.ZipFile(
        io.BytesIO(post(client, prompt=["a", "b"], n=2, format="zip").content)
    )
    prompts = [provenance(archive.read(name))["prompt"] for name in sorted(archive.namelist())]
    assert prompts == ["a", "a", "b", "b"]
    document = post(client, prompt=["a", "b"], seed=3).json()
    assert [(each["prompt"], each["seed"]) for each in document["images"]] == [("a", 3), ("b", 4)]
    assert provenance(base64.b64decode(document["images"][1]["data"]))["prompt"] == "b"


def test_seeds_of_single_images(client):
    listed = pixels(client, prompt=["a", "b"], seeds=[8, 3])
    assert np.array_equal(listed[0], pixels(client, prompt="a", seed=8)[0])
    assert np.array_equal(listed[1], pixels(client, prompt="b", seed=3)[0])
    assert len(pixels(client, prompt="a", seeds=[1, 2, 3])) == 3


def test_long_prompt_is_truncated_and_a_header_says_so(client):
    long = "abcdefgh" * 10
    response = post(client, prompt=long, seed=5, format="png")
    assert response.headers["x-ganymede-prompt-truncated"] == f"{MAX_TOKENS}/{len(long)}"
    kept = post(client, prompt=long[:MAX_TOKENS], seed=5, format="png")
    assert "x-ganymede-prompt-truncated" not in kept.headers
    decoded = [np.asarray(Image.open(io.BytesIO(each.content))) for each in (response, kept)]
    assert np.array_equal(*decoded)
    # The metadata has the complete prompt.
    assert provenance(response.content)["prompt"] == long


def test_header_states_which_prompts_are_truncated(client):
    response = post(client, prompt=["a", "b" * 50, "c"])
    assert response.headers["x-ganymede-prompt-truncated"] == f",{MAX_TOKENS}/50,"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "\n\t",
        "\u0000\u0001\u001f\u007f",
        "🦊🚀 fox",
        "👩‍👩‍👧‍👦",
        "日本語のプロンプト",
        "שלום עולם",
        "مرحبا",
        "e\u0301\u0301\u0301",
        "\u202ereversed\u202c",
        "\ufffe\uffff",
        "😀" * 4000,
        "a" * 4000,
        "</svg><script>",
        "'; DROP TABLE models; --",
    ],
    ids=range(16),
)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "json", "npy", "zip"])
def test_any_text_is_a_prompt(client, prompt, image_format):
    response = post(client, prompt=prompt, seed=1, format=image_format)
    assert response.status_code == 200, response.text
    if image_format in ("png", "jpeg", "webp"):
        assert provenance(response.content)["prompt"] == prompt


def test_empty_prompt_is_the_zero_vector(client):
    assert np.array_equal(
        pixels(client, prompt="", seed=1), pixels(client, prompt=["abc", ""], seeds=[9, 1])[1:]
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "a" * 4001}, "prompt"),
        ({"prompt": ["a", "\ud800"]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": ["a"] * 5000}, "prompt"),
        ({"prompt": ["a"] * 20_000}, "prompt"),
        ({"prompt": "a", "n": 5000}, "n"),
        ({"prompt": ["a", "b"], "seeds": [1]}, "n"),
        ({"prompt": "a", "truncation": 0.5}, "truncation"),
        ({"prompt": "a", "class": 1}, "class"),
        ({"prompt": "a", "model": TEXT_MODEL}, "model"),
        ({"prompt": "a", "model": ENCODER}, "model"),
    ],
    ids=range(15),
)
def test_invalid_fields_are_named(client, body, field):
    response = client.post(
        "/v1/text-to-image",
        content=json.dumps({"model": CAPTIONED, **body}),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"].startswith(field)


def test_other_routes_refer_to_this_one(client):
    response = client.post("/v1/generate", json={"model": CAPTIONED})
    assert response.status_code == 422
    assert "/v1/text-to-image" in response.json()["detail"]


def test_image_has_an_address(client):
    response = client.get(f"/v1/models/{CAPTIONED}/images/5.png", params={"prompt": "abc"})
    generated = post(client, prompt="abc", seed=5, format="png")
    assert response.content == generated.content
    other = client.get(f"/v1/models/{CAPTIONED}/images/5.png", params={"prompt": "xyz"})
    assert other.headers["etag"] != response.headers["etag"]
