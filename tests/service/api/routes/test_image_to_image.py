"""`/v1/translate`, `/v1/upscale`, `/v1/inpaint` and `/v1/colorize`, against the real service."""

import base64
import contextlib
import io
import json
import re
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.offline.reproduce import CannotReproduce, reproduce
from service.runtime.images.encoding import read_provenance
from tests.support.drawn_models import SIZE, write_models
from tests.support.hostile_images import corpus
from tests.support.image_to_image_models import FILL, SIDE, blurred, write_translators
from tests.support.mixed_images import mixed_images
from tests.support.servers import serving

MODELS = {
    "translate": "softer",
    "upscale": "larger",
    "inpaint": "filled",
    "colorize": "colored",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    models = tmp_path_factory.mktemp("image-to-image")
    write_models(models)
    write_translators(models)
    return models


@pytest.fixture(scope="module")
def server(repository):
    with contextlib.ExitStack() as stack:
        environment = {"GANYMEDE_PLAN": "default", "GANYMEDE_MAX_UPLOAD_PIXELS": str(2**24)}
        yield stack.enter_context(serving(repository, env=environment))


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def noise(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(pixels, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def assert_problem(response, status, kind, field) -> None:
    """Check that a response is a problem of type `kind`, which names `field` if given."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:ganymede:problem:{kind}"
    assert [each["field"] for each in problem.get("errors", [])] == ([field] if field else [])


def text_of(pixels, **options) -> str:
    return base64.b64encode(file_of(pixels, **options)).decode()


def send(client, route, *files, **fields) -> httpx.Response:
    fields = {"model": MODELS[route], "format": "png"} | fields
    uploads = [
        (name, (f"{name}-{i}.png", content, "image/png")) for i, (name, content) in enumerate(files)
    ]
    return client.post(f"/v1/{route}", data=fields, files=uploads)


def pixels_of(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_accepts_multipart_form(client):
    image = noise()
    response = send(client, "translate", ("image", file_of(image)))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-ganymede-direction"] == "soften"
    np.testing.assert_array_equal(pixels_of(response), blurred(image))


def test_json_equals_form(client):
    image = noise()
    form = send(client, "translate", ("image", file_of(image)), direction="invert")
    lines = base64.encodebytes(file_of(image)).decode()
    for encoded in (text_of(image), f"data:image/png;base64,{text_of(image)}", lines):
        body = {"model": "softer", "image": encoded, "direction": "invert", "format": "png"}
        assert client.post("/v1/translate", json=body).content == form.content
    np.testing.assert_array_equal(pixels_of(form), 255 - image)


def test_zip_keeps_order_and_file_names(client):
    images = [noise(9 + i, 30 - i, seed=i) for i in range(11)]
    uploads = [("image", file_of(image)) for image in images]
    response = send(client, "translate", *uploads, direction="invert", format="zip")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        names = archive.namelist()
        outputs = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    assert names[0] == "00-image-0.png"
    assert names[10] == "10-image-10.png"
    for output, image in zip(outputs, images, strict=True):
        np.testing.assert_array_equal(output, 255 - image)
    entries = send(client, "translate", *uploads, format="json").json()["images"]
    assert len({each["input"] for each in entries}) == 11
    assert {each["direction"] for each in entries} == {"soften"}


def test_npy_requires_equal_sizes(client):
    same_size = [("image", file_of(noise(seed=i))) for i in range(3)]
    response = send(client, "upscale", *same_size, format="npy")
    assert np.load(io.BytesIO(response.content)).shape == (3, 40, 60, 3)
    response = send(client, "upscale", *same_size, ("image", file_of(noise(5, 6))), format="npy")
    assert_problem(response, 422, "invalid-request", "format")


def test_tiled_image_equals_single_run(client):
    image = noise(700, 1300)
    response = send(client, "translate", ("image", file_of(image)))
    np.testing.assert_array_equal(pixels_of(response), blurred(image))
    response = send(client, "upscale", ("image", file_of(image)))
    np.testing.assert_array_equal(
        pixels_of(response), blurred(image).repeat(2, axis=0).repeat(2, axis=1)
    )


def test_applies_orientation_and_keeps_alpha(client):
    image = np.concatenate([noise(), np.full((20, 30, 1), 77, np.uint8)], 2)
    output = pixels_of(send(client, "colorize", ("image", file_of(image))))
    np.testing.assert_array_equal(output[..., 3], 77)
    np.testing.assert_array_equal(output[..., :3], 255 - image[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = file_of(noise(), "PNG", exif=exif.tobytes())
    output = pixels_of(send(client, "colorize", ("image", rotated)))
    np.testing.assert_array_equal(output, 255 - np.rot90(noise(), -1))


def test_inpaints_masks_and_boxes(client):
    image = noise()
    mask = np.zeros((20, 30), np.uint8)
    mask[2:7, 5:11] = 255
    by_mask = send(client, "inpaint", ("image", file_of(image)), ("mask", file_of(mask)))
    output = pixels_of(by_mask)
    assert (output[mask > 0] == FILL).all()
    np.testing.assert_array_equal(output[mask == 0], image[mask == 0])
    by_box = send(client, "inpaint", ("image", file_of(image)), boxes="[[5, 2, 6, 5]]")
    assert by_box.content == by_mask.content
    as_json = {"model": "filled", "image": text_of(image), "mask": text_of(mask), "format": "png"}
    assert client.post("/v1/inpaint", json=as_json).content == by_mask.content
    # A single mask applies to all images.
    two = [("image", file_of(image)), ("image", file_of(noise(seed=1)))]
    other = np.roll(mask, 9, axis=1)
    for masks in ([mask], [mask, other]):
        uploads = [("mask", file_of(each)) for each in masks]
        response = send(client, "inpaint", *two, *uploads, format="npy")
        output = np.load(io.BytesIO(response.content))
        assert (output[0][mask > 0] == FILL).all()
        assert (output[1][masks[-1] > 0] == FILL).all()


def test_accepts_samples_of_another_model(client):
    samples = {"model": "painted", "seeds": [3, 4]}
    body = {"model": "larger", "samples": samples, "format": "npy"}
    outputs = np.load(io.BytesIO(client.post("/v1/upscale", json=body).content))
    generated = client.post(
        "/v1/generate", json={"model": "painted", "seeds": [3, 4], "format": "npy"}
    )
    for output, image in zip(outputs, np.load(io.BytesIO(generated.content)), strict=True):
        np.testing.assert_array_equal(output, blurred(image).repeat(2, axis=0).repeat(2, axis=1))
    entries = client.post("/v1/upscale", json=body | {"format": "json"}).json()["images"]
    assert [each["source"]["seed"] for each in entries] == [3, 4]
    assert entries[0]["source"]["model"] == "painted"
    assert outputs.shape[1] == 2 * SIZE


def test_upscaler_of_fixed_size_reports_its_tiles(client):
    response = send(client, "upscale", ("image", file_of(noise())), model="larger-fixed")
    assert pixels_of(response).shape == (40, 60, 3)
    assert re.fullmatch(r"\d+x16x12", response.headers["x-ganymede-tiles"])
    assert "x-ganymede-resized" not in response.headers
    body = {"model": "larger-fixed", "image": [text_of(noise()), text_of(noise(12, 16))]}
    document = client.post("/v1/upscale", json=body | {"format": "json"}).json()
    tiles = [entry["tiles"] for entry in document["images"]]
    assert [each["size"] for each in tiles] == [[16, 12]] * 2
    assert tiles[0]["count"] > tiles[1]["count"] == 1


def test_reports_how_colors_were_kept(client):
    gray = noise()[..., :1].repeat(3, 2)
    uploads = [("image", file_of(gray)), ("image", file_of(noise()))]
    response = send(client, "upscale", *uploads, model="tinting", format="npy")
    assert response.headers["x-ganymede-color"] == "gray,"
    outputs = np.load(io.BytesIO(response.content))
    assert (outputs[0] == outputs[0][..., :1]).all()
    np.testing.assert_array_equal(outputs[1][::2, ::2, 0], noise()[..., 0] // 2)
    response = send(client, "upscale", ("image", file_of(noise())), model="larger-luma")
    assert response.headers["x-ganymede-color"] == "luma"
    assert pixels_of(response).shape == (40, 60, 3)


def test_fixed_size_model_reports_resizing(client):
    response = send(client, "translate", ("image", file_of(noise())), model="fixed")
    assert response.headers["x-ganymede-resized"] == f"30x20>{SIDE}x{SIDE}"
    assert pixels_of(response).shape == (SIDE, SIDE, 3)
    fitting = send(client, "translate", ("image", file_of(noise(SIDE, SIDE))), model="fixed")
    assert "x-ganymede-resized" not in fitting.headers


def test_provenance_contains_input_digest(client, repository, tmp_path):
    response = send(client, "translate", ("image", file_of(noise())), direction="invert")
    provenance = read_provenance(Image.open(io.BytesIO(response.content)))
    assert provenance["direction"] == "invert"
    assert provenance["input"] == response.headers["x-ganymede-input"]
    (tmp_path / "output.png").write_bytes(response.content)
    with pytest.raises(CannotReproduce, match="an input image that it does not contain"):
        reproduce(tmp_path / "output.png", repository)


def animation() -> bytes:
    """An animated WebP of three frames."""
    frames = [Image.fromarray(noise(seed=i)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return out.getvalue()


def test_rejects_animation_unless_first_frame_is_requested(client):
    response = send(client, "colorize", ("image", animation()))
    assert_problem(response, 422, "animated", "image.0")
    response = send(client, "colorize", ("image", animation()), animated="first")
    np.testing.assert_array_equal(pixels_of(response), 255 - noise())


@pytest.mark.parametrize(
    ("route", "files", "fields", "status", "kind", "field"),
    [
        ("translate", ["image"], {"direction": "up"}, 422, "invalid-request", "direction"),
        ("upscale", ["image"], {"direction": "up"}, 422, "invalid-request", "direction"),
        ("translate", ["image"], {"model": "larger"}, 422, "invalid-request", "model"),
        ("translate", ["image"], {"model": "painted"}, 422, "invalid-request", "model"),
        ("translate", ["image"], {"model": "unknown"}, 404, "model-not-found", None),
        ("translate", ["image", "mask"], {}, 422, "invalid-request", "mask"),
        ("translate", ["image", "other"], {}, 422, "invalid-request", "other"),
        ("translate", ["image"], {"color": "red"}, 422, "invalid-request", "color"),
        ("translate", ["image"], {"format": "tiff"}, 422, "invalid-request", "format"),
        ("inpaint", ["image"], {}, 422, "invalid-request", "mask"),
        ("inpaint", ["image"], {"boxes": "[[0, 0, 99, 1]]"}, 422, "box-outside", "mask.0"),
        ("inpaint", ["image"], {"boxes": "[[0, 0"}, 422, "invalid-request", "boxes"),
        ("inpaint", ["image"], {"boxes": "[" * 99}, 400, "json-too-deep", None),
        (
            *("inpaint", ["image"], {"boxes": f"[{'[],' * 300_000}[]]"}),
            *(400, "json-too-many-parts", None),
        ),
        (
            "inpaint",
            ["image"],
            {"boxes": f"[{'[0],' * 200_000}0]"},
            422,
            "invalid-request",
            "boxes.0",
        ),
        ("inpaint", ["image", "mask"], {"boxes": "[[0,0,1,1]]"}, 422, "invalid-request", "boxes"),
        ("inpaint", ["image", "small"], {}, 422, "invalid-request", "mask.0"),
        ("inpaint", ["image", "text"], {}, 422, "mask-not-a-picture", "mask.0"),
    ],
)
def test_problem_names_invalid_field(client, route, files, fields, status, kind, field):
    content = {
        "image": ("image", file_of(noise())),
        "mask": ("mask", file_of(noise())),
        "small": ("mask", file_of(noise(3, 4))),
        "text": ("mask", b"hello"),
        "other": ("other", file_of(noise())),
    }
    fields = {"model": MODELS[route], "format": "png"} | fields
    uploads = [(content[each][0], (each, content[each][1])) for each in files]
    response = client.post(f"/v1/{route}", data=fields, files=uploads)
    assert_problem(response, status, kind, field)


def test_rejects_malformed_body(client):
    for kind, content, status, problem in [
        ("text/plain", b"x", 415, "media-type-not-supported"),
        ("multipart/form-data", b"x", 400, "invalid-form"),
        ("multipart/form-data; boundary=a", b"--b\r\nbroken", 400, "invalid-form"),
        ("application/json", b"{", 400, "invalid-json"),
        ("application/json", b"[]", 422, "invalid-request"),
    ]:
        response = client.post("/v1/translate", content=content, headers={"content-type": kind})
        assert response.status_code == status, (kind, content, response.text)
        assert response.json()["type"].endswith(problem)
    response = client.post("/v1/translate", json={"model": "softer"})
    assert_problem(response, 422, "invalid-request", "image")
    response = client.post("/v1/translate", json={"model": "softer", "image": "?"})
    assert_problem(response, 422, "invalid-request", "image.0")


def test_generate_rejects_image_to_image_models(client):
    response = client.post("/v1/generate", json={"model": "softer"})
    assert_problem(response, 422, "invalid-request", "model")
    assert "/v1/translate" in response.json()["detail"]


def test_open_inference_protocol_uses_training_size(client):
    metadata = client.get("/v2/models/softer:invert").json()
    assert metadata["inputs"][0]["shape"] == [-1, SIDE, SIDE, 3]
    image = noise(SIDE, SIDE)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, SIDE, SIDE, 3],
        "data": image.flatten().tolist(),
    }
    response = client.post("/v2/models/softer:invert/infer", json={"inputs": [tensor]})
    output = np.array(response.json()["outputs"][0]["data"]).reshape(image.shape)
    np.testing.assert_array_equal(output, 255 - image)


def test_rejects_image_larger_than_queue(repository):
    environment = {"GANYMEDE_PLAN": "default", "GANYMEDE_QUEUE_PIXELS": "40000"}
    with serving(repository, env=environment) as server, server.client() as client:
        assert send(client, "upscale", ("image", file_of(noise()))).status_code == 200
        response = send(client, "upscale", ("image", file_of(noise(100, 100))))
        assert_problem(response, 422, "picture-too-large", "image")
        # Finished requests release their place in the queue.
        uploads = [("image", file_of(noise(60, 60, seed=i))) for i in range(5)]
        assert send(client, "upscale", *uploads, format="zip").status_code == 200


def test_rejects_too_many_pixels(repository):
    environment = {"GANYMEDE_PLAN": "default", "GANYMEDE_MAX_UPLOAD_PIXELS": "500"}
    with serving(repository, env=environment) as server, server.client() as client:
        response = send(client, "colorize", ("image", file_of(noise())))
        assert_problem(response, 422, "picture-too-large", "image.0")
        response = send(
            client, "inpaint", ("image", file_of(noise(9, 9))), ("mask", file_of(noise()))
        )
        assert_problem(response, 422, "mask-too-large", "mask.0")


@pytest.mark.parametrize("route", MODELS)
def test_hostile_files_are_4xx(client, route, server):
    for name, content in corpus().items():
        mask = [("mask", file_of(noise()))] if route == "inpaint" else []
        response = send(client, route, ("image", content), *mask)
        assert response.status_code in (200, 422), (name, response.text)
        if response.status_code == 422:
            assert json.loads(response.text)["type"].startswith("urn:ganymede:problem:")
        if route == "inpaint":
            response = send(client, route, ("image", file_of(noise())), ("mask", content))
            assert response.status_code in (200, 422), (name, response.text)
    assert "Traceback" not in server.logged()


@pytest.mark.slow
@pytest.mark.parametrize("route", MODELS)
def test_accepts_mixed_files(client, route, server):
    factor = 2 if route == "upscale" else 1
    for upload in mixed_images():
        height, width = upload.pixels.shape[:2]
        fields = {"animated": "first", "format": "jpeg" if height * width > 10**6 else "png"}
        if route == "inpaint":
            fields["boxes"] = "[[0, 0, 1, 1]]"
        response = send(client, route, ("image", upload.data), **fields)
        assert response.status_code == 200, (upload.name, response.text)
        output = Image.open(io.BytesIO(response.content))
        assert output.size == (width * factor, height * factor), upload.name
    assert "Traceback" not in server.logged()
