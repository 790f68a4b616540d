"""`/v1/translate`, `/v1/upscale`, `/v1/inpaint` and `/v1/colorize`, against the real service."""

import base64
import contextlib
import io
import json
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
    models = tmp_path_factory.mktemp("pictures")
    write_models(models)
    write_translators(models)
    return models


@pytest.fixture(scope="module")
def server(repository):
    with contextlib.ExitStack() as stack:
        said = {"GANYMEDE_PLAN": "default", "GANYMEDE_MAX_UPLOAD_PIXELS": str(2**24)}
        yield stack.enter_context(serving(repository, env=said))


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def picture(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(pixels, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def assert_problem(answer, status, kind, field) -> None:
    """A problem of that kind, which names the field that is to blame."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:ganymede:problem:{kind}"
    assert [each["field"] for each in problem.get("errors", [])] == ([field] if field else [])


def text_of(pixels, **options) -> str:
    return base64.b64encode(file_of(pixels, **options)).decode()


def send(client, route, *files, **fields) -> httpx.Response:
    fields = {"model": MODELS[route], "format": "png"} | fields
    sent = [
        (name, (f"{name}-{i}.png", content, "image/png")) for i, (name, content) in enumerate(files)
    ]
    return client.post(f"/v1/{route}", data=fields, files=sent)


def pixels_of(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_form_with_a_file_comes_back_as_a_picture(client):
    image = picture()
    answer = send(client, "translate", ("image", file_of(image)))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-ganymede-direction"] == "soften"
    np.testing.assert_array_equal(pixels_of(answer), blurred(image))


def test_json_with_base64_is_the_same(client):
    image = picture()
    form = send(client, "translate", ("image", file_of(image)), direction="invert")
    for sent in (text_of(image), f"data:image/png;base64,{text_of(image)}"):
        body = {"model": "softer", "image": sent, "direction": "invert", "format": "png"}
        assert client.post("/v1/translate", json=body).content == form.content
    np.testing.assert_array_equal(pixels_of(form), 255 - image)


def test_many_come_back_in_their_order_and_with_their_names(client):
    images = [picture(9 + i, 30 - i, seed=i) for i in range(11)]
    sent = [("image", file_of(image)) for image in images]
    answer = send(client, "translate", *sent, direction="invert", format="zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        made = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    assert names[0] == "00-image-0.png"
    assert names[10] == "10-image-10.png"
    for one, image in zip(made, images, strict=True):
        np.testing.assert_array_equal(one, 255 - image)
    told = send(client, "translate", *sent, format="json").json()["images"]
    assert len({each["input"] for each in told}) == 11
    assert {each["direction"] for each in told} == {"soften"}


def test_npy_needs_one_size(client):
    alike = [("image", file_of(picture(seed=i))) for i in range(3)]
    answer = send(client, "upscale", *alike, format="npy")
    assert np.load(io.BytesIO(answer.content)).shape == (3, 40, 60, 3)
    answer = send(client, "upscale", *alike, ("image", file_of(picture(5, 6))), format="npy")
    assert_problem(answer, 422, "invalid-request", "format")


def test_a_large_picture_is_what_one_run_would_make(client):
    image = picture(700, 1300)
    answer = send(client, "translate", ("image", file_of(image)))
    np.testing.assert_array_equal(pixels_of(answer), blurred(image))
    answer = send(client, "upscale", ("image", file_of(image)))
    np.testing.assert_array_equal(
        pixels_of(answer), blurred(image).repeat(2, axis=0).repeat(2, axis=1)
    )


def test_pictures_are_upright_and_keep_their_alpha(client):
    image = np.concatenate([picture(), np.full((20, 30, 1), 77, np.uint8)], 2)
    made = pixels_of(send(client, "colorize", ("image", file_of(image))))
    np.testing.assert_array_equal(made[..., 3], 77)
    np.testing.assert_array_equal(made[..., :3], 255 - image[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(picture(), "PNG", exif=exif.tobytes())
    made = pixels_of(send(client, "colorize", ("image", turned)))
    np.testing.assert_array_equal(made, 255 - np.rot90(picture(), -1))


def test_holes_are_masks_or_boxes(client):
    image = picture()
    mask = np.zeros((20, 30), np.uint8)
    mask[2:7, 5:11] = 255
    by_mask = send(client, "inpaint", ("image", file_of(image)), ("mask", file_of(mask)))
    made = pixels_of(by_mask)
    assert (made[mask > 0] == FILL).all()
    np.testing.assert_array_equal(made[mask == 0], image[mask == 0])
    by_box = send(client, "inpaint", ("image", file_of(image)), boxes="[[5, 2, 6, 5]]")
    assert by_box.content == by_mask.content
    as_json = {"model": "filled", "image": text_of(image), "mask": text_of(mask), "format": "png"}
    assert client.post("/v1/inpaint", json=as_json).content == by_mask.content
    # One mask for all, or one for each.
    two = [("image", file_of(image)), ("image", file_of(picture(seed=1)))]
    other = np.roll(mask, 9, axis=1)
    for masks in ([mask], [mask, other]):
        sent = [("mask", file_of(each)) for each in masks]
        answer = send(client, "inpaint", *two, *sent, format="npy")
        made = np.load(io.BytesIO(answer.content))
        assert (made[0][mask > 0] == FILL).all()
        assert (made[1][masks[-1] > 0] == FILL).all()


def test_what_another_model_makes_goes_in(client):
    samples = {"model": "painted", "seeds": [3, 4]}
    body = {"model": "larger", "samples": samples, "format": "npy"}
    made = np.load(io.BytesIO(client.post("/v1/upscale", json=body).content))
    drawn = client.post("/v1/generate", json={"model": "painted", "seeds": [3, 4], "format": "npy"})
    for one, image in zip(made, np.load(io.BytesIO(drawn.content)), strict=True):
        np.testing.assert_array_equal(one, blurred(image).repeat(2, axis=0).repeat(2, axis=1))
    told = client.post("/v1/upscale", json=body | {"format": "json"}).json()["images"]
    assert [each["source"]["seed"] for each in told] == [3, 4]
    assert told[0]["source"]["model"] == "painted"
    assert made.shape[1] == 2 * SIZE


def test_a_model_of_one_size_says_that_it_resized(client):
    answer = send(client, "translate", ("image", file_of(picture())), model="fixed")
    assert answer.headers["x-ganymede-resized"] == f"30x20>{SIDE}x{SIDE}"
    assert pixels_of(answer).shape == (SIDE, SIDE, 3)
    whole = send(client, "translate", ("image", file_of(picture(SIDE, SIDE))), model="fixed")
    assert "x-ganymede-resized" not in whole.headers


def test_a_file_says_what_it_was_made_of(client, repository, tmp_path):
    answer = send(client, "translate", ("image", file_of(picture())), direction="invert")
    said = read_provenance(Image.open(io.BytesIO(answer.content)))
    assert said["direction"] == "invert"
    assert said["input"] == answer.headers["x-ganymede-input"]
    (tmp_path / "made.png").write_bytes(answer.content)
    with pytest.raises(CannotReproduce, match="an input image that it does not contain"):
        reproduce(tmp_path / "made.png", repository)


def animation() -> bytes:
    frames = [Image.fromarray(picture(seed=i)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return out.getvalue()


def test_of_an_animation_the_first_frame_is_taken_only_when_asked(client):
    answer = send(client, "colorize", ("image", animation()))
    assert_problem(answer, 422, "animated", "image.0")
    answer = send(client, "colorize", ("image", animation()), animated="first")
    np.testing.assert_array_equal(pixels_of(answer), 255 - picture())


@pytest.mark.parametrize(
    ("route", "files", "fields", "status", "kind", "field"),
    [
        ("translate", ["image"], {"direction": "up"}, 422, "invalid-request", "direction"),
        ("upscale", ["image"], {"direction": "up"}, 422, "invalid-request", "direction"),
        ("translate", ["image"], {"model": "larger"}, 422, "invalid-request", "model"),
        ("translate", ["image"], {"model": "painted"}, 422, "invalid-request", "model"),
        ("translate", ["image"], {"model": "nobody"}, 404, "model-not-found", None),
        ("translate", ["image", "mask"], {}, 422, "invalid-request", "mask"),
        ("translate", ["image", "other"], {}, 422, "invalid-request", "other"),
        ("translate", ["image"], {"colour": "red"}, 422, "invalid-request", "colour"),
        ("translate", ["image"], {"format": "tiff"}, 422, "invalid-request", "format"),
        ("inpaint", ["image"], {}, 422, "invalid-request", "mask"),
        ("inpaint", ["image"], {"boxes": "[[0, 0, 99, 1]]"}, 422, "box-outside", "mask.0"),
        ("inpaint", ["image"], {"boxes": "[[0, 0"}, 422, "invalid-request", "boxes"),
        ("inpaint", ["image", "mask"], {"boxes": "[[0,0,1,1]]"}, 422, "invalid-request", "boxes"),
        ("inpaint", ["image", "small"], {}, 422, "invalid-request", "mask.0"),
        ("inpaint", ["image", "text"], {}, 422, "mask-not-a-picture", "mask.0"),
    ],
)
def test_what_cannot_be_done_names_its_field(client, route, files, fields, status, kind, field):
    content = {
        "image": ("image", file_of(picture())),
        "mask": ("mask", file_of(picture())),
        "small": ("mask", file_of(picture(3, 4))),
        "text": ("mask", b"hello"),
        "other": ("other", file_of(picture())),
    }
    fields = {"model": MODELS[route], "format": "png"} | fields
    sent = [(content[each][0], (each, content[each][1])) for each in files]
    answer = client.post(f"/v1/{route}", data=fields, files=sent)
    assert_problem(answer, status, kind, field)


def test_other_bodies_are_refused(client):
    for kind, content, status, problem in [
        ("text/plain", b"x", 415, "media-type-not-supported"),
        ("multipart/form-data", b"x", 400, "invalid-form"),
        ("multipart/form-data; boundary=a", b"--b\r\nbroken", 400, "invalid-form"),
        ("application/json", b"{", 400, "invalid-json"),
        ("application/json", b"[]", 422, "invalid-request"),
    ]:
        answer = client.post("/v1/translate", content=content, headers={"content-type": kind})
        assert answer.status_code == status, (kind, content, answer.text)
        assert answer.json()["type"].endswith(problem)
    answer = client.post("/v1/translate", json={"model": "softer"})
    assert_problem(answer, 422, "invalid-request", "image")
    answer = client.post("/v1/translate", json={"model": "softer", "image": "?"})
    assert_problem(answer, 422, "invalid-request", "image.0")


def test_models_of_pictures_are_not_for_seeds(client):
    answer = client.post("/v1/generate", json={"model": "softer"})
    assert_problem(answer, 422, "invalid-request", "model")
    assert "/v1/translate" in answer.json()["detail"]


def test_the_open_inference_protocol_runs_them_at_their_own_size(client):
    described = client.get("/v2/models/softer:invert").json()
    assert described["inputs"][0]["shape"] == [-1, SIDE, SIDE, 3]
    image = picture(SIDE, SIDE)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, SIDE, SIDE, 3],
        "data": image.flatten().tolist(),
    }
    answer = client.post("/v2/models/softer:invert/infer", json={"inputs": [tensor]})
    made = np.array(answer.json()["outputs"][0]["data"]).reshape(image.shape)
    np.testing.assert_array_equal(made, 255 - image)


def test_what_the_queue_cannot_hold_is_said_before_the_work(repository):
    said = {"GANYMEDE_PLAN": "default", "GANYMEDE_QUEUE_PIXELS": "40000"}
    with serving(repository, env=said) as server, server.client() as client:
        assert send(client, "upscale", ("image", file_of(picture()))).status_code == 200
        answer = send(client, "upscale", ("image", file_of(picture(100, 100))))
        assert_problem(answer, 422, "picture-too-large", "image")
        # What was held is free again.
        many = [("image", file_of(picture(60, 60, seed=i))) for i in range(5)]
        assert send(client, "upscale", *many, format="zip").status_code == 200


def test_a_picture_of_more_pixels_than_are_allowed_is_not_decoded(repository):
    said = {"GANYMEDE_PLAN": "default", "GANYMEDE_MAX_UPLOAD_PIXELS": "500"}
    with serving(repository, env=said) as server, server.client() as client:
        answer = send(client, "colorize", ("image", file_of(picture())))
        assert_problem(answer, 422, "picture-too-large", "image.0")
        answer = send(
            client, "inpaint", ("image", file_of(picture(9, 9))), ("mask", file_of(picture()))
        )
        assert_problem(answer, 422, "mask-too-large", "mask.0")


@pytest.mark.parametrize("route", MODELS)
def test_hostile_files_are_4xx_each_by_each(client, route, server):
    for name, content in corpus().items():
        mask = [("mask", file_of(picture()))] if route == "inpaint" else []
        answer = send(client, route, ("image", content), *mask)
        assert answer.status_code in (200, 422), (name, answer.text)
        if answer.status_code == 422:
            assert json.loads(answer.text)["type"].startswith("urn:ganymede:problem:")
        if route == "inpaint":
            answer = send(client, route, ("image", file_of(picture())), ("mask", content))
            assert answer.status_code in (200, 422), (name, answer.text)
    assert "Traceback" not in server.logged()


@pytest.mark.parametrize("route", MODELS)
def test_a_hundred_pictures_of_all_sizes_and_kinds_go_through(client, route, server):
    factor = 2 if route == "upscale" else 1
    for one in mixed_images():
        height, width = one.pixels.shape[:2]
        fields = {"animated": "first", "format": "jpeg" if height * width > 10**6 else "png"}
        if route == "inpaint":
            fields["boxes"] = "[[0, 0, 1, 1]]"
        answer = send(client, route, ("image", one.data), **fields)
        assert answer.status_code == 200, (one.name, answer.text)
        made = Image.open(io.BytesIO(answer.content))
        assert made.size == (width * factor, height * factor), one.name
    assert "Traceback" not in server.logged()
