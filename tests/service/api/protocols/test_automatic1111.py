"""`webuiapi`, a client of AUTOMATIC1111's API, against the real service."""

import base64
import io
import re

import numpy as np
import pytest
import webuiapi
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.api_keys import add_key
from service.runtime.images.encoding import read_provenance, resized
from tests.support.drawn_models import write_models
from tests.support.image_to_image_models import write_translators
from tests.support.servers import Server, serving

SINGLE, BATCH = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"
MAX_IMAGES = 3
# A key with this rate can upscale one image of 20 × 15 pixels by 2 in a minute.
RATE = 40 * 30
PROBLEM = "urn:ganymede:problem:"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server that requires a key, its keys by name."""
    models = tmp_path_factory.mktemp("upscalers")
    write_models(models)
    write_translators(models)
    file = models.parent / "keys.json"
    keys = {
        "plain": add_key(file, "plain"),
        "poor": add_key(file, "poor", pixels_per_minute=RATE),
    }
    limits = ["--max-images", str(MAX_IMAGES), "--max-upload-pixels", "20000"]
    with serving(models, "--keys", str(file), *limits) as server:
        yield server, keys


@pytest.fixture(scope="module")
def api(keyed):
    """The unmodified client, which sends the key as the password of Basic authentication."""
    server, keys = keyed
    return webui(server, keys["plain"])


@pytest.fixture
def client(keyed):
    server, keys = keyed
    with server.client(headers={"authorization": f"Bearer {keys['plain']}"}) as client:
        yield client


def webui(server: Server, password: str) -> webuiapi.WebUIApi:
    baseurl = f"{server.url}/sdapi/v1"
    return webuiapi.WebUIApi(baseurl=baseurl, username="anyone", password=password)


def drawn(width=20, height=15, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def file_of(image: Image.Image, kind="PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def encoded(image: Image.Image, kind="PNG") -> str:
    return base64.b64encode(file_of(image, kind)).decode()


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.fixture
def native(client):
    """Return the pixels that `/v1/upscale` makes of an image."""

    def upscale(image: Image.Image, model: str) -> np.ndarray:
        fields = {"model": model, "format": "npy"}
        files = {"image": ("a.png", file_of(image), "image/png")}
        response = client.post("/v1/upscale", data=fields, files=files)
        return np.load(io.BytesIO(response.raise_for_status().content))[0]

    return upscale


def test_lists_models_that_upscale_with_their_factors(api):
    listed = api.get_upscalers()
    assert [each["name"] for each in listed] == ["larger", "larger-fixed", "larger-luma", "tinting"]
    assert {each["scale"] for each in listed} == {2}


def test_same_pixels_as_the_native_route(api, native):
    image = drawn()
    result = api.extra_single_image(image, upscaler_1="tinting", upscaling_resize=2)
    assert np.array_equal(np.asarray(result.image), native(image, "tinting"))
    assert result.info == "<p>tinting@1: 20x15 to 40x30</p>"
    provenance = read_provenance(result.image)
    assert provenance["model"] == "tinting"
    assert provenance["task"] == "upscale"
    assert "resized" not in provenance


@pytest.mark.parametrize("chosen", ["None", "none", "", None])
def test_without_a_choice_the_first_upscaler_is_used_and_named(client, chosen):
    response = client.post(SINGLE, json={"image": encoded(drawn()), "upscaler_1": chosen})
    assert response.json()["html_info"].startswith("<p>larger@1: ")
    assert response.headers["x-ganymede-model"] == "larger@1"


@pytest.mark.parametrize("scale", [0.5, 1, 1.5, 3, 4])
def test_other_scale_is_reached_by_resampling(api, native, scale):
    image = drawn()
    result = api.extra_single_image(image, upscaler_1="larger", upscaling_resize=scale)
    width, height = round(20 * scale), round(15 * scale)
    expected = resized(native(image, "larger"), width, height)
    assert np.array_equal(np.asarray(result.image), expected)
    assert f"resampled to {width}x{height}" in result.info
    provenance = read_provenance(result.image)
    assert provenance["resized"] == [width, height]


def test_size_is_reached_by_cropping_around_the_center(api, native):
    image = drawn()
    options = {"upscaler_1": "larger", "resize_mode": 1}
    size = {"upscaling_resize_w": 50, "upscaling_resize_h": 60}
    cropped = api.extra_single_image(image, **options, **size)
    covering = resized(native(image, "larger"), 80, 60)
    assert np.array_equal(np.asarray(cropped.image), covering[:, 15:65])
    assert "resampled to 80x60, cropped to 50x60" in cropped.info
    provenance = read_provenance(cropped.image)
    assert provenance["cropped"] == [15, 0, 50, 60]
    whole = api.extra_single_image(image, **options, **size, upscaling_crop=False)
    assert np.array_equal(np.asarray(whole.image), covering)
    exact = {"upscaling_resize_w": 40, "upscaling_resize_h": 30}
    assert "resampled" not in api.extra_single_image(image, **options, **exact).info


@given(
    size=st.tuples(st.integers(10, 30), st.integers(10, 30)),
    wanted=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=15, deadline=None)
def test_cropped_output_has_the_requested_size(api, size, wanted):
    width, height = wanted
    result = api.extra_single_image(
        drawn(*size), resize_mode=1, upscaling_resize_w=width, upscaling_resize_h=height
    )
    assert result.image.size == wanted


def test_batch_has_the_images_of_single_requests(api):
    images = [drawn(), drawn(9, 7, seed=1), drawn(20, 15, seed=2)]
    batch = api.extra_batch_images(images, upscaler_1="larger", upscaling_resize=3)
    assert len(batch.images) == 3
    for image, result in zip(images, batch.images, strict=True):
        single = api.extra_single_image(image, upscaler_1="larger", upscaling_resize=3)
        assert np.array_equal(np.asarray(result), np.asarray(single.image))
    assert batch.info.count("<p>") == 3
    assert "9x7 to 18x14" in batch.info


def test_accepts_what_clients_send(client):
    image = drawn()
    for text in (encoded(image, "JPEG"), f"data:image/webp;base64,{encoded(image, 'WEBP')}"):
        loose = {
            "image": text,
            "upscaling_crop": "true",
            "show_extras_results": 0,
            "upscaling_resize": "2",
            "upscaler_2": "R-ESRGAN 4x+",
            "codeformer_weight": 0.5,
            "save_images": False,
            "rembg_model": "None",
        }
        response = client.post(SINGLE, json=loose)
        assert response.status_code == 200, response.text
        assert decoded(response.json()["image"]).size == (40, 30)


def test_transparency_is_kept(client):
    image = drawn().convert("RGBA")
    image.putalpha(100)
    response = client.post(SINGLE, json={"image": encoded(image), "upscaling_resize": 3})
    result = decoded(response.json()["image"])
    assert result.mode == "RGBA"
    assert np.all(np.asarray(result)[..., 3] == 100)


@pytest.mark.parametrize(
    ("fields", "status", "kind", "detail"),
    [
        ({"upscaler_1": "R-ESRGAN 4x+"}, 404, "model-not-found", "available: larger, larger-fixed"),
        ({"upscaler_1": "softer"}, 404, "model-not-found", "no upscaler is named 'softer'"),
        ({"gfpgan_visibility": 0.5}, 422, "invalid-request", "gfpgan_visibility: expected 0"),
        ({"codeformer_visibility": 1}, 422, "invalid-request", "codeformer_visibility"),
        (
            {"upscaler_2": "larger", "extras_upscaler_2_visibility": 0.5},
            422,
            "invalid-request",
            "extras_upscaler_2_visibility",
        ),
        ({"rembg_model": "u2net"}, 422, "invalid-request", "rembg_model: is not supported"),
        ({"resize_mode": 2}, 422, "invalid-request", "resize_mode"),
        ({"upscaling_resize": 0}, 422, "invalid-request", "upscaling_resize"),
        ({"upscaling_resize": 40}, 422, "invalid-request", "800x600"),
        (
            {"resize_mode": 1, "upscaling_resize_w": 10_000},
            422,
            "invalid-request",
            "upscaling_resize_w",
        ),
        ({"image": "https://example.com/a.png"}, 422, "invalid-request", "image: expected base64"),
        ({"image": ""}, 422, "not-a-picture", "is empty"),
        ({"image": encoded(drawn(), "BMP")}, 422, "image-format-not-supported", "PNG"),
        ({"image": encoded(drawn(200, 200))}, 422, "picture-too-large", "20,000"),
        ({"image": None}, 422, "invalid-request", "image"),
    ],
)
def test_refuses_what_it_cannot_do_with_a_detail(client, fields, status, kind, detail):
    response = client.post(SINGLE, json={"image": encoded(drawn())} | fields)
    assert response.status_code == status, response.text
    problem = response.json()
    assert problem["type"] == PROBLEM + kind
    assert detail in problem["detail"]


def test_client_shows_the_detail_of_an_error(api):
    with pytest.raises(RuntimeError, match="no upscaler is named") as error:
        api.extra_single_image(drawn(), upscaler_1="ESRGAN_4x")
    assert error.value.args[0] == 404


def test_batch_names_the_image_that_cannot_be_used(client):
    good = {"data": encoded(drawn()), "name": "a"}
    for data in ("%%%", base64.b64encode(b"not an image").decode()):
        bad = client.post(BATCH, json={"imageList": [good, {"data": data, "name": "b"}]})
        assert bad.status_code == 422
        assert bad.json()["errors"][0]["field"] == "imageList.1.data"
    bad = client.post(SINGLE, json={"image": base64.b64encode(b"not an image").decode()})
    assert bad.json()["errors"][0]["field"] == "image"
    for count in (0, MAX_IMAGES + 1):
        response = client.post(BATCH, json={"imageList": [good] * count})
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "imageList"


def test_large_body_is_validated_like_a_small_one(client):
    padding = {"unknown": "x" * 50_000}
    response = client.post(SINGLE, json={"image": encoded(drawn())} | padding)
    assert response.status_code == 422
    assert "unknown: is not supported" in response.json()["detail"]
    large = drawn(130, 110)
    assert len(encoded(large)) > 2**15
    assert client.post(SINGLE, json={"image": encoded(large), "upscaling_resize": 1}).is_success


@pytest.mark.parametrize(
    "password", [None, "", "gnm_unknown", "key-of-another-scheme"], ids=["none", "empty", "x", "y"]
)
def test_needs_a_key(keyed, password):
    server, _ = keyed
    auth = None if password is None else ("user", password)
    with server.client(auth=auth) as client:
        for response in (
            client.get("/sdapi/v1/upscalers"),
            client.post(SINGLE, json={"image": encoded(drawn())}),
            client.post(BATCH, json={"imageList": []}),
        ):
            assert response.status_code == 401
            assert response.json()["detail"]


def test_password_is_a_key_below_its_path_only(keyed):
    server, keys = keyed
    with server.client(auth=("user", keys["plain"])) as client:
        assert client.get("/sdapi/v1/upscalers").status_code == 200
        for path in ("/v1/models", "/sdapi-other", "/v2/models/larger"):
            assert client.get(path).status_code == 401
        for credentials in ("Basic", "Basic %%%", "Basic bm8gY29sb24=", "Basic /w=="):
            headers = {"authorization": credentials}
            refused = client.get("/sdapi/v1/upscalers", headers=headers, auth=None)
            assert refused.status_code == 401


def test_rate_limit_counts_resampled_pixels(keyed):
    server, keys = keyed
    with server.client(auth=("user", keys["poor"])) as client:
        body = {"image": encoded(drawn()), "upscaler_1": "larger"}
        larger = client.post(SINGLE, json=body | {"upscaling_resize": 3})
        assert larger.status_code == 422
        assert larger.json()["type"] == f"{PROBLEM}larger-than-allowance"
        first, second = (client.post(SINGLE, json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["ratelimit-remaining"] == "0"
    assert second.headers["retry-after"]


def test_requests_are_counted_like_others(client):
    client.post(SINGLE, json={"image": encoded(drawn()), "upscaler_1": "larger"})
    text = client.get("/metrics").text
    assert re.search(rf'ganymede_requests_total{{[^}}]*route="{SINGLE}",status="200"}}', text)
    paths = client.get("/openapi.json").json()["paths"]
    for path in (SINGLE, BATCH, "/sdapi/v1/upscalers"):
        assert path in paths
