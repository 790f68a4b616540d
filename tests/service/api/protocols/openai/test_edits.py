"""`client.images.edit` of OpenAI's unmodified SDK against the real service."""

import io
import json

import numpy as np
import openai
import pytest
from PIL import Image

from service.runtime.images.encoding import read_provenance, resized
from tests.support.drawn_models import write_models
from tests.support.image_to_image_models import FILL, blurred, write_translators
from tests.support.openai_sdk import content, pixels, sdk
from tests.support.servers import serving

ROUTE = "/v1/images/edits"
HEIGHT, WIDTH = 20, 30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("edits")
    write_models(models)
    write_translators(models)
    with serving(models, env={"GANYMEDE_PLAN": "default"}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with sdk(server) as client:
        yield client


def noise(seed=0, shape=(HEIGHT, WIDTH, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def with_hole(array: np.ndarray) -> np.ndarray:
    """Return the image with transparent pixels at rows 5 to 9, columns 10 to 19."""
    alpha = np.full(array.shape[:2], 255, np.uint8)
    alpha[5:10, 10:20] = 0
    return np.dstack([array, alpha])


def filled(array: np.ndarray) -> np.ndarray:
    expected = array.copy()
    expected[5:10, 10:20] = FILL
    return expected


def test_transparent_area_of_the_mask_is_filled(client):
    image = noise()
    # The colors of a mask mean nothing.
    response = client.images.edit(
        model="filled", image=png(image), mask=png(with_hole(noise(1))), prompt="a red boat"
    )
    np.testing.assert_array_equal(pixels(response)[0], filled(image))
    assert response.size == f"{WIDTH}x{HEIGHT}"
    assert (response.output_format, response.background) == ("png", "opaque")
    assert response.created > 1.7e9
    assert response.usage.total_tokens == 0
    # The prompt had no effect, and the answer says so.
    assert response.prompt == "nothing"
    assert response.data[0].task == "inpaint"


def test_transparent_area_of_the_image_is_filled_without_a_mask(client):
    image = noise()
    response = client.images.edit(model="filled", image=png(with_hole(image)), prompt="x")
    np.testing.assert_array_equal(pixels(response)[0], filled(image))
    both = client.images.edit(
        model="filled", image=png(with_hole(image)), mask=png(with_hole(image)), prompt="x"
    )
    assert both.data[0].b64_json == response.data[0].b64_json


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("softer", blurred),
        ("colored", lambda image: 255 - image),
        ("tinting", lambda image: (image // [2, 1, 1]).repeat(2, 0).repeat(2, 1)),
    ],
)
def test_model_without_mask_does_what_it_is_for(client, model, expected):
    image = noise(shape=(16, 24, 3)) // 2 * 2
    response = client.images.edit(model=model, image=png(image), prompt="soften")
    np.testing.assert_array_equal(pixels(response)[0], expected(image))


def test_prompt_names_the_direction(client):
    image = noise()

    def edit(**options):
        return client.images.edit(model="softer", image=png(image), **options)

    response = edit(prompt=" Invert ")
    np.testing.assert_array_equal(pixels(response)[0], 255 - image)
    assert (response.prompt, response.data[0].revised_prompt) == ("direction", "invert")
    # An explicit direction takes precedence.
    explicit = edit(prompt="a cat", extra_body={"direction": "invert"})
    assert explicit.data[0].b64_json == response.data[0].b64_json
    assert explicit.prompt == "nothing"
    np.testing.assert_array_equal(pixels(edit(prompt=" "))[0], blurred(image))
    with pytest.raises(openai.BadRequestError) as caught:
        edit(prompt="make it a painting")
    assert caught.value.param == "prompt"
    assert "soften, invert" in str(caught.value)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_several_images_are_each_edited_and_resampled(client, form):
    images = [noise(1), noise(2, (10, 10, 3)), noise(3)]
    response = client.images.edit(
        model="softer",
        image=[png(image) for image in images],
        prompt="invert",
        size="40x20",
        output_format=form,
    )
    assert (response.size, response.resized_from) == ("40x20", "auto")
    for image, original in zip(response.data, images, strict=True):
        with Image.open(io.BytesIO(content(image))) as file:
            assert (file.size, file.format) == ((40, 20), form.upper())
            assert read_provenance(file)["resized"] == [40, 20]
            if form != "jpeg":
                np.testing.assert_array_equal(file, resized(255 - original, 40, 20))
    mixed = client.images.edit(
        model="softer", image=[png(image) for image in images], prompt="invert"
    )
    assert mixed.size == "auto"
    assert [image.size for image in mixed.data] == ["30x20", "10x10", "30x20"]


def test_streams_one_event_for_each_image(client):
    images = [png(noise(seed)) for seed in range(3)]
    whole = client.images.edit(model="softer", image=images, prompt="invert")
    events = list(
        client.images.edit(
            model="softer", image=images, prompt="invert", stream=True, partial_images=2
        )
    )
    assert [event.type for event in events] == ["image_edit.completed"] * 3
    for event, image in zip(events, whole.data, strict=True):
        assert event.b64_json == image.b64_json
        assert (event.size, event.background) == (f"{WIDTH}x{HEIGHT}", "opaque")
        assert event.usage.total_tokens == 0


def test_error_within_a_stream_is_its_last_event(client, server):
    images = [png(noise()), b"no image", png(noise())]
    stream = client.images.edit(model="softer", image=images, prompt="invert", stream=True)
    assert next(stream).type == "image_edit.completed"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "not_a_picture"
    assert caught.value.param == "image.1"
    assert "image.1" in caught.value.message
    # As the first image, it is an error like any other.
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(model="softer", image=b"no image", prompt="invert", stream=True)
    assert caught.value.code == "not_a_picture"
    assert "Traceback" not in server.logged()


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"mask": png(noise())}, "mask.0", "no alpha channel"),
        ({"mask": png(with_hole(noise())[:, :, [0, 1, 2]])}, "mask.0", "no alpha channel"),
        ({"mask": png(np.dstack([noise(), np.full((20, 30), 9, np.uint8)]))}, "mask.0", "no trans"),
        (
            {"mask": png(with_hole(noise(shape=(21, 30, 3))))},
            "mask.0",
            "30×21, but the image is 30×20",
        ),
        ({"mask": b"GIF89a"}, "mask.0", "mask"),
        ({}, "mask.0", "send a mask"),
        ({"model": "softer", "mask": png(with_hole(noise()))}, "mask", "takes no mask"),
        ({"image": [png(noise())] * 2, "mask": png(with_hole(noise()))}, "mask", "one image"),
        ({"model": "softer", "n": 2}, "n", "always the same"),
        ({"model": "softer", "response_format": "url"}, "response_format", "b64_json"),
        ({"model": "softer", "size": "9"}, "size", "WIDTHxHEIGHT"),
        ({"model": "softer", "output_format": "gif"}, "output_format", "png"),
        ({"model": "softer", "image": []}, "image", "missing"),
        ({"model": "softer", "extra_body": {"direction": "up"}}, "direction", "soften, invert"),
        ({"model": "softer", "extra_body": {"strenth": 1}}, "strenth", "strenth"),
        ({"model": "painted"}, "model", "/v1/images/variations"),
    ],
)
def test_bad_request_names_the_field(client, options, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(
            **{"model": "filled", "image": png(noise()), "prompt": "invert"} | options
        )
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert message in str(caught.value)


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="softer") as caught:
        client.images.edit(model="nope", image=png(noise()), prompt="x")
    assert caught.value.code == "model_not_found"


def test_headers_say_what_was_done(server):
    with server.client() as raw:
        form = {"model": "softer", "prompt": "invert", "size": "15x10"}
        response = raw.post(ROUTE, data=form, files={"image": ("a.png", png(noise()))})
    assert response.headers["x-ganymede-model"] == "softer@1"
    assert response.headers["x-ganymede-prompt"] == "direction"
    assert response.headers["x-ganymede-direction"] == "invert"
    assert response.headers["x-ganymede-output-resized"] == "30x20>15x10"


@pytest.mark.parametrize(
    "body",
    [b"", b"--x--\r\n", b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\na\r\n--x--'],
)
def test_malformed_forms_have_openais_errors(server, body):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    with server.client() as raw:
        response = raw.post(ROUTE, content=body, headers=headers)
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        json_form = {"model": "softer", "image": "bm8=", "prompt": "invert"}
        response = raw.post(
            ROUTE, content=json.dumps(json_form), headers={"content-type": "text/plain"}
        )
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "media_type_not_supported"
