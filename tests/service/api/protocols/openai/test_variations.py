"""`client.images.create_variation` of OpenAI's unmodified SDK against the real service."""

import io

import numpy as np
import openai
import pytest
from PIL import Image

from service.api_keys import add_key
from service.offline.reproduce import reproduce
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, SIZE
from tests.support.openai_sdk import content, pixels, sdk
from tests.support.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client(drawn_server):
    with sdk(drawn_server) as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def vary(client, model: str, image: np.ndarray, n: int = 1, **options):
    body = {name: options.pop(name) for name in ("seed", "strength", "class") if name in options}
    return client.images.create_variation(
        model=model, image=png(image), n=n, extra_body=body, **options
    )


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("model", ["movable", "movable-classes"])
def test_encoder_finds_the_image_and_seeds_move_it(client, load, model):
    generator = load(model)
    options = ([1], [0.5]) if generator.manifest.latent.truncation else ([1],)
    (image,) = (
        generator.generate([4], *options) if generator.manifest.classes else generator.generate([4])
    )
    response = vary(client, model, image, 3, seed=7)
    assert response.variation["method"] == "inversion"
    assert response.variation["psnr"] > 25
    assert response.variation["strength"] == 0.3
    assert [each.seed for each in response.data] == [7, 8, 9]
    varied = pixels(response)
    assert len({each.tobytes() for each in varied}) == 3
    near, far = (
        difference(pixels(vary(client, model, image, seed=7, strength=strength))[0], image)
        for strength in (0.01, 0.9)
    )
    assert near < 10 < far


def test_full_strength_is_the_image_of_the_seed(client, load):
    model = load("movable")
    (image, other) = model.generate([4, 7])
    (varied,) = pixels(vary(client, "movable", image, seed=7, strength=1))
    np.testing.assert_array_equal(varied, other)


@pytest.mark.parametrize("model", ["painted", "painted-classes", "cut"])
def test_nearest_seed_takes_the_place_of_an_inversion(client, load, model):
    generator = load(model)
    seed = 100
    if generator.manifest.classes:
        truncation = generator.manifest.latent.truncation.default
        # The samples have the classes in turn.
        (image,) = generator.generate([seed], [seed % len(CLASSES)], [truncation])
    else:
        (image,) = generator.generate([seed])
    response = vary(client, model, image, 2, seed=7)
    assert response.variation["method"] == "nearest-seed"
    assert response.variation["nearest"]["seed"] == seed
    assert response.variation["samples"] == 256
    assert response.variation["psnr"] is None
    if generator.manifest.classes:
        assert {image.to["class"] for image in response.data} == {CLASSES[seed % len(CLASSES)]}
    (near,) = pixels(vary(client, model, image, seed=7, strength=0.001))
    assert difference(near, image) < 1


def test_class_limits_the_samples(client, load):
    (image,) = load("cut").generate([5], [2], [0.7])
    response = vary(client, "cut", image, **{"class": "dog"})
    assert response.variation["nearest"]["class"] == "dog"
    assert response.data[0].to["class"] == "dog"


@pytest.mark.parametrize("model", ["movable", "painted"])
def test_equal_requests_give_equal_images(client, load, model):
    (image,) = load(model).generate([300])
    first, again = (vary(client, model, image, 2) for _ in range(2))
    assert [each.b64_json for each in first.data] == [each.b64_json for each in again.data]
    assert first.data[0].seed == again.data[0].seed
    assert vary(client, model, image, seed=1).data[0].b64_json != first.data[0].b64_json


@pytest.mark.parametrize("model", ["movable", "movable-classes", "painted", "cut"])
def test_variations_are_reproduced_from_their_files(
    client, load, model, drawn_repository, tmp_path
):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    response = vary(client, model, image, 2, size="48x30")
    assert (response.size, response.resized_from) == ("48x30", f"{SIZE}x{SIZE}")
    for each in response.data:
        file = tmp_path / "image.png"
        file.write_bytes(content(each))
        assert reproduce(file, drawn_repository).identical


def test_headers_say_which_method_was_used(drawn_server):
    image = png(np.zeros((SIZE, SIZE, 3), np.uint8))
    with drawn_server.client() as client:
        for model, method in (("movable", "inversion"), ("painted", "nearest-seed")):
            response = client.post(
                "/v1/images/variations",
                data={"model": model, "seed": "7", "n": "2"},
                files={"image": ("a.png", image)},
            )
            assert response.headers["x-ganymede-variation"] == method
            assert response.headers["x-ganymede-seed"] == "7,8"
            assert len(response.headers["x-ganymede-input"]) == 64


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"n": 0}, "n", "1"),
        ({"n": 257}, "n", "256"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"strength": 0}, "strength", "0"),
        ({"strength": 1.5}, "strength", "1"),
        ({"seed": -1}, "seed", "0"),
        ({"class": "tiger"}, "class", "cat, dog, night owl"),
        ({"model": "painted", "class": "cat"}, "class", "painted"),
    ],
)
def test_bad_request_names_the_field(client, options, param, message):
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(openai.BadRequestError) as caught:
        vary(client, **{"model": "cut", "image": image} | options)
    assert caught.value.param == param
    assert message in str(caught.value)


def test_unusable_files_and_models(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.create_variation(model="painted", image=b"no image")
    assert caught.value.code == "not_a_picture"
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.create_variation(image=b"no image")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.images.create_variation(model="nope", image=b"no image")


@pytest.mark.slow
def test_samples_count_toward_the_rate_limit_once(drawn_repository, load, tmp_path):
    key = add_key(tmp_path / "keys.json", "one", pixels_per_minute=260 * SIZE * SIZE)
    with serving(
        drawn_repository, "--processes", "1", "--keys", str(tmp_path / "keys.json")
    ) as server:
        client = sdk(server, api_key=key)
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        with pytest.raises(openai.BadRequestError) as caught:
            vary(client, "painted", image, 5)
        assert caught.value.code == "larger_than_allowance"
        assert vary(client, "painted", image, 3).data
        # The samples are kept, so that one image is left.
        assert vary(client, "painted", image).data
        with pytest.raises(openai.RateLimitError):
            vary(client, "painted", image, 100)
