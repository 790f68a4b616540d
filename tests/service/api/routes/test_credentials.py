"""Content Credentials over HTTP: the field `c2pa` of all routes with images."""

import base64
import io
import zipfile

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from service.runtime.credentials.reading import Validity, read_credential
from service.runtime.images.xmp import SourceType
from tests.support.certificates import ORGANIZATION, SIGNER, write_signing_files
from tests.support.command import assert_one_line_error, run
from tests.support.drawn_models import write_models
from tests.support.image_to_image_models import write_translators
from tests.support.latent_models import write_latent_models
from tests.support.servers import serving

SEED = {"model": "painted", "seed": 7}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_signing_files(tmp_path_factory.mktemp("signing"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    write_translators(models)
    write_latent_models(models)
    return models


@pytest.fixture(scope="module")
def server(repository, files):
    flags = ["--plan", "default", "--processes", "1"]
    with serving(repository, *flags, *files.flags) as server:
        yield server


@pytest.fixture
def signing(server):
    with server.client() as client:
        yield client


def credential(content: bytes, files):
    found = read_credential(content, files.root.read_text())
    assert found is not None
    assert found.validity is Validity.TRUSTED, found.reason
    assert found.signer == f"{SIGNER} ({ORGANIZATION})"
    return found


def test_generated_images_are_signed_on_request(signing, files):
    found = credential(
        signing.post("/v1/generate", json={**SEED, "format": "png", "c2pa": True}).content, files
    )
    assert found.source_type == SourceType.GENERATED.uri
    assert found.generation["seed"] == 7
    assert found.generation["model"] == "painted"


def test_edits_variations_and_streams_of_openais_api_are_signed(server, files):
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(out, "PNG")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        signed = {"extra_body": {"c2pa": True}}
        edit = client.images.edit(model="softer", image=out.getvalue(), prompt="invert", **signed)
        varied = client.post(
            "/images/variations",
            cast_to=openai.types.ImagesResponse,
            body={"model": "movable", "image": base64.b64encode(out.getvalue()).decode()}
            | signed["extra_body"],
        )
        (event,) = client.images.generate(model="painted", prompt="7", stream=True, **signed)
    composite = SourceType.COMPOSITE.uri
    for image, source_type in (
        (edit.data[0], composite),
        (varied.data[0], SourceType.GENERATED.uri),
        (event, SourceType.GENERATED.uri),
    ):
        found = credential(base64.b64decode(image.b64_json), files)
        assert found.source_type == source_type


def test_without_the_field_nothing_is_signed(signing):
    content = signing.post("/v1/generate", json={**SEED, "format": "png"}).content
    assert read_credential(content) is None


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_every_image_of_json_and_of_an_archive_is_signed(signing, files, image_format):
    body = {"model": "painted", "seed": 7, "n": 3, "c2pa": True}
    document = signing.post("/v1/generate", json={**body, "format": image_format}).json()
    for i, image in enumerate(document["images"]):
        found = credential(base64.b64decode(image["data"]), files)
        assert found.generation["seed"] == 7 + i
    archive = signing.post("/v1/generate", json={**body, "format": "zip"}).content
    with zipfile.ZipFile(io.BytesIO(archive)) as entries:
        for name in entries.namelist():
            credential(entries.read(name), files)


def test_signing_changes_neither_pixels_nor_the_address(signing, files):
    path = "/v1/models/painted/images/7.png"
    plain, signed = signing.get(path), signing.get(path, params={"c2pa": "true"})
    credential(signed.content, files)
    pixels = [np.asarray(Image.open(io.BytesIO(each.content))) for each in (plain, signed)]
    assert np.array_equal(*pixels)
    # Two signatures differ, so only a weak comparison holds.
    assert signed.headers["etag"] == f"W/{plain.headers['etag']}"
    for tag in (plain.headers["etag"], signed.headers["etag"]):
        again = signing.get(path, params={"c2pa": "true"}, headers={"if-none-match": tag})
        assert again.status_code == 304


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("sample-classes", {"model": "cut", "per_class": 1}),
        ("mix-styles", {"model": "movable", "rows": [1], "columns": [2, 3], "layers": [0]}),
        ("edit", {"model": "movable", "seed": 7, "directions": {"bright": 1}}),
    ],
)
def test_the_other_routes_of_generators_sign(signing, files, route, body):
    response = signing.post(f"/v1/{route}", json={**body, "format": "zip", "c2pa": True})
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as entries:
        for name in entries.namelist():
            credential(entries.read(name), files)


def test_an_image_from_an_image_is_a_composite(signing, files):
    upload = signing.get("/v1/models/painted/images/7.png").content
    form = {"model": "softer", "format": "webp", "c2pa": "true"}
    response = signing.post("/v1/translate", data=form, files={"image": upload})
    found = credential(response.content, files)
    assert found.source_type == SourceType.COMPOSITE.uri
    body = {**form, "image": base64.b64encode(upload).decode(), "c2pa": True}
    credential(signing.post("/v1/translate", json=body).content, files)


def test_upscaled_images_of_automatic1111s_api_are_signed(signing, files):
    upload = signing.get("/v1/models/painted/images/7.png").content
    body = {"image": base64.b64encode(upload).decode(), "upscaling_resize": 3, "c2pa": True}
    response = signing.post("/sdapi/v1/extra-single-image", json=body)
    found = credential(base64.b64decode(response.json()["image"]), files)
    assert found.source_type == SourceType.COMPOSITE.uri
    assert found.generation["task"] == "upscale"


def test_reconstructions_are_signed(signing, files):
    upload = signing.get("/v1/models/movable/images/7.png").content
    form = {"model": "movable", "format": "png", "c2pa": "true"}
    response = signing.post("/v1/invert", data=form, files={"image": upload})
    # Generated from a latent: no pixel of the input is in it.
    assert credential(response.content, files).source_type == SourceType.GENERATED.uri


def test_images_of_openai_are_signed_on_request(server, files):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk:
        request = {"model": "painted", "prompt": "7", "extra_body": {"c2pa": True}}
        (image,) = sdk.images.generate(**request).data
        credential(base64.b64decode(image.b64_json), files)
        (address,) = sdk.images.generate(**request, response_format="url").data
        credential(httpx.get(address.url).content, files)


def problem(response, field="c2pa") -> dict:
    assert response.status_code == 422, response.text
    document = response.json()
    assert [each["field"] for each in document["errors"]] == [field]
    return document


def test_arrays_cannot_be_signed(signing):
    refused = problem(signing.post("/v1/generate", json={**SEED, "format": "npy", "c2pa": True}))
    assert "png, jpeg, webp" in refused["detail"]


@pytest.mark.parametrize("value", ["yes", "1", '"true"'])
def test_a_form_needs_a_boolean(signing, value):
    upload = signing.get("/v1/models/painted/images/7.png").content
    form = {"model": "softer", "c2pa": value}
    problem(signing.post("/v1/translate", data=form, files={"image": upload}))


def test_without_a_certificate_a_request_is_refused(drawn_server):
    with drawn_server.client() as client:
        responses = [
            client.post("/v1/generate", json={**SEED, "c2pa": True}),
            client.get("/v1/models/painted/images/7.png", params={"c2pa": "true"}),
        ]
        assert client.post("/v1/generate", json={**SEED, "c2pa": False}).status_code == 200
    for response in responses:
        refused = problem(response)
        assert refused["type"] == "urn:ganymede:problem:no-certificate"
        assert "--c2pa-certificate" in refused["detail"]


def test_a_server_can_sign_by_default(drawn_repository, files):
    flags = ["--plan", "default", "--processes", "1", "--c2pa-default"]
    with serving(drawn_repository, *flags, *files.flags) as server, server.client() as client:
        credential(client.post("/v1/generate", json={**SEED, "format": "png"}).content, files)
        credential(client.get("/v1/models/painted/images/7.webp").content, files)
        plain = client.post("/v1/generate", json={**SEED, "format": "png", "c2pa": False})
        assert read_credential(plain.content) is None
        assert client.post("/v1/generate", json={**SEED, "format": "npy"}).status_code == 200
        assert "PRIVATE" not in server.logged()


def test_serve_refuses_a_signer_that_cannot_work(drawn_repository, files, tmp_path):
    flags = [*files.flags[:3], str(tmp_path / "missing.pem")]
    process = run("serve", "--models", drawn_repository, *flags)
    assert_one_line_error(process, 2, "missing.pem", "No such file")
