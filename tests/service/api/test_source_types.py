"""Every image that leaves the service carries the mark of generated images, on every route."""

import base64
import contextlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.xmp import SourceType
from tests.support.drawn_models import write_models
from tests.support.exiftool import source_types
from tests.support.image_to_image_models import write_translators
from tests.support.latent_models import write_latent_models
from tests.support.servers import serving

PHOTOGRAPH = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(
    PHOTOGRAPH, "PNG"
)
IMAGE = base64.b64encode(PHOTOGRAPH.getvalue()).decode()
GENERATED, COMPOSITE = (each.uri for each in SourceType)
IMAGE_FORMATS = ("png", "jpeg", "webp")
ANIMATIONS = ("webp", "gif", "png", "mp4", "webm")
FORM = "form"
# Routes by path: the body, the formats of files, and the expected source type.
ROUTES = {
    "/v1/generate": ({"model": "painted-classes", "seed": 7}, IMAGE_FORMATS, GENERATED),
    "/v1/sample-classes": (
        {"model": "painted-classes", "classes": {"dog": 1}, "seed": 7},
        IMAGE_FORMATS,
        GENERATED,
    ),
    "/v1/mix-styles": (
        {"model": "painted-classes", "rows": [1], "columns": [2]},
        IMAGE_FORMATS,
        GENERATED,
    ),
    "/v1/interpolate": (
        {"model": "painted-classes", "sources": [1, 2], "frames": 3},
        ANIMATIONS,
        GENERATED,
    ),
    "/v1/edit": (
        {"model": "movable", "seed": 7, "directions": {"bright": 1}},
        IMAGE_FORMATS,
        GENERATED,
    ),
    "/v1/invert": (FORM, ("png", "webp"), GENERATED),
    "/v1/translate": (
        {"model": "softer", "image": IMAGE, "direction": "invert"},
        IMAGE_FORMATS,
        COMPOSITE,
    ),
    "/v1/upscale": ({"model": "larger", "image": IMAGE}, IMAGE_FORMATS, COMPOSITE),
    "/v1/inpaint": ({"model": "filled", "image": IMAGE, "mask": IMAGE}, IMAGE_FORMATS, COMPOSITE),
    "/v1/colorize": ({"model": "colored", "image": IMAGE}, IMAGE_FORMATS, COMPOSITE),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    write_latent_models(models)
    write_translators(models)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(models))
        yield stack.enter_context(server.client())


def send(client, path: str, format_: str):
    body, _, _ = ROUTES[path]
    if body == FORM:
        data = {"model": "movable", "format": format_}
        return client.post(path, data=data, files={"image": PHOTOGRAPH.getvalue()})
    return client.post(path, json=body | {"format": format_})


def content(response) -> bytes:
    assert response.status_code == 200, response.text
    return response.content


def test_exiftool_reads_the_mark_on_every_route(client, tmp_path):
    expected = {}

    def add(name: str, file: bytes, source_type: str) -> None:
        (tmp_path / name).write_bytes(file)
        expected[name] = source_type

    for path, (_, formats, source_type) in ROUTES.items():
        route = path.rpartition("/")[2]
        for format_ in formats:
            first, again = (content(send(client, path, format_)) for _ in range(2))
            assert first == again, (path, format_)
            add(f"{route}.{format_}", first, source_type)
        with zipfile.ZipFile(io.BytesIO(content(send(client, path, "zip")))) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            assert names
            for i, name in enumerate(names):
                add(f"{route}-zip-{i}.png", archive.read(name), source_type)
        if path != "/v1/interpolate":
            (image,) = send(client, path, "json").json()["images"]
            add(f"{route}-json.png", base64.b64decode(image["data"]), source_type)
    for extension in ("png", "jpg", "webp"):
        path = f"/v1/models/painted-classes/images/7.{extension}"
        add(f"address.{extension}", content(client.get(path)), GENERATED)
    for format_ in IMAGE_FORMATS:
        body = {"model": "painted-classes", "prompt": "dog", "output_format": format_}
        (image,) = client.post("/v1/images/generations", json=body).json()["data"]
        add(f"openai.{format_}", base64.b64decode(image["b64_json"]), GENERATED)
    # An upscaled image that the service has generated contains nothing that was captured.
    body = {"model": "larger", "samples": {"model": "painted", "seeds": [3]}, "format": "png"}
    add("chain.png", content(client.post("/v1/upscale", json=body)), GENERATED)
    assert source_types(tmp_path) == expected


def test_every_route_with_images_is_covered(client):
    covered = {*ROUTES, "/v1/models/{name}/images/{seed}.{extension}"}
    # These send files of the model folder or of a job, which other tests read.
    stored = {"/v1/models/{name}/preview.webp", "/v1/models/{name}/directions/{direction}.webp"}
    paths = client.get("/openapi.json").json()["paths"]
    found = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        for kind in operation["responses"].get("200", {}).get("content", {})
        if kind.partition("/")[0] in ("image", "video")
    }
    # The preview of sounds draws waveforms, and is no image of a model.
    drawn = {"/v1/audio"}
    # Has the path of /v1/generate from pixels to files; test_text_to_image.py reads its marks.
    captioned = {"/v1/text-to-image"}
    assert found - stored - drawn - captioned == covered
