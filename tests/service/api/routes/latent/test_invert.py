"""Inversion over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api_keys import add_key
from service.offline.reproduce import reproduce
from service.runtime.latent.sources import decode_floats
from tests.support.drawn_models import CLASSES, LAYERS, SIZE, W, Z
from tests.support.latent_models import PASSES
from tests.support.responses import assert_problem, decode_image, npy_pixels
from tests.support.servers import serving


def png(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def post(client, *files: bytes, model="movable", accept=None, **fields) -> httpx.Response:
    uploads = [("image", (f"photo {i}.png", file)) for i, file in enumerate(files)]
    headers = {"accept": accept} if accept else {}
    return client.post("/v1/invert", files=uploads, data={"model": model} | fields, headers=headers)


def test_finds_the_styles_of_the_models_own_images(client, load):
    model = load("movable")
    images = model.generate([1, 2, 3])
    answer = post(client, *map(png, images)).json()
    w = np.stack([decode_floats(each["w"]).reshape(LAYERS, W) for each in answer["images"]])
    np.testing.assert_allclose(w, model.styles([1, 2, 3]), atol=0.3)
    for image, original in zip(answer["images"], images, strict=True):
        reconstruction = decode_image(base64.b64decode(image["data"])).astype(float)
        error = np.mean(((reconstruction - original) / 255) ** 2)
        assert image["inversion"]["mean_squared_error"] == pytest.approx(error, rel=1e-4)
        assert image["inversion"]["psnr"] == pytest.approx(-10 * np.log10(error), rel=1e-4)
        assert image["inversion"]["psnr"] > 30
        assert image["inversion"]["pass"] == PASSES
        assert "resized_input" not in image["inversion"]


def test_latents_go_into_the_other_routes(client, load):
    (image,) = load("movable").generate([4])
    (found,) = post(client, png(image), format="json").json()["images"]
    expected = decode_image(base64.b64decode(found["data"]))
    body = {"model": "movable", "w": [found["w"]], "format": "npy"}
    (again,) = npy_pixels(client.post("/v1/generate", json=body))
    np.testing.assert_array_equal(again, expected)
    edit = body | {"directions": {"bright": 0}}
    np.testing.assert_array_equal(npy_pixels(client.post("/v1/edit", json=edit))[0], expected)
    row = {"w": found["w"]}
    mix = {"model": "movable", "rows": [row], "columns": [row], "format": "npy"}
    np.testing.assert_array_equal(npy_pixels(client.post("/v1/mix-styles", json=mix))[0], expected)


def test_every_class_is_tried_and_the_best_kept(client, load):
    model = load("movable-classes")
    images = model.generate([1, 2, 3], [2, 0, 1])
    answer = post(client, *map(png, images), model="movable-classes").json()["images"]
    assert [each["class"] for each in answer] == [CLASSES[2], CLASSES[0], CLASSES[1]]
    assert {each["inversion"]["classes_tried"] for each in answer} == {3}
    assert all(len(decode_floats(each["z"])) == Z for each in answer)
    fields = [{name: each[name] for name in ("z", "class")} for each in answer]
    body = {"model": "movable-classes", "images": fields, "format": "npy"}
    again = npy_pixels(client.post("/v1/generate", json=body))
    expected = [decode_image(base64.b64decode(each["data"])) for each in answer]
    np.testing.assert_array_equal(again, expected)


def test_a_given_class_is_the_only_one_tried(client, load):
    (image,) = load("movable-classes").generate([1], [2])
    for value in ("dog", "1"):
        (found,) = post(client, png(image), model="movable-classes", **{"class": value}).json()[
            "images"
        ]
        assert found["class"] == "dog"
        assert "classes_tried" not in found["inversion"]
    (best,) = post(client, png(image), model="movable-classes").json()["images"]
    assert best["inversion"]["psnr"] > found["inversion"]["psnr"] + 3


def test_other_sizes_are_cropped_and_resized_and_the_answer_says_so(client, load):
    (image,) = load("movable").generate([1])
    wide = np.repeat(np.repeat(image, 4, axis=0), 4, axis=1)
    wide = np.concatenate([wide[:, :10], wide, wide[:, -20:]], axis=1)
    response = post(client, png(wide))
    inversion = response.json()["images"][0]["inversion"]
    side = 4 * SIZE
    assert inversion["crop"] == [15, 0, side, side]
    assert inversion["resized_input"] == {"from": [side, side], "to": [SIZE, SIZE]}
    assert response.headers["x-ganymede-resized"] == f"{side}x{side}>{SIZE}x{SIZE}"
    # A size that is only cropped, in a format without metadata.
    taller = np.concatenate([image, image[:5]])
    headers = post(client, png(taller), png(image), format="npy").headers
    assert headers["x-ganymede-crop"] == f"{SIZE}x{SIZE}+0+2,"
    assert not {"x-ganymede-resized", "x-ganymede-color"} & set(headers)


def test_transparency_orientation_and_gray_images_are_handled(client, load):
    (image,) = load("movable").generate([1])
    (upright,) = post(client, png(image)).json()["images"]
    exif = Image.Exif()
    exif[0x0112] = 8  # Stored rotated by 90°.
    rotated = png(np.ascontiguousarray(image.swapaxes(0, 1)[:, ::-1]), exif=exif)
    (found,) = post(client, rotated).json()["images"]
    assert found["w"] == upright["w"]
    hidden = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    white = np.full_like(image, 255)
    answer = post(client, png(hidden), png(white), png(white[..., 0])).json()["images"]
    assert answer[0]["inversion"]["background"] == "white"
    assert {each["w"] for each in answer} == {answer[1]["w"]}
    assert "background" not in answer[1]["inversion"]


def test_base64_is_accepted_like_a_form(client, load):
    files = [png(image) for image in load("movable").generate([1, 2])]
    encoded = [base64.b64encode(file).decode() for file in files]
    by_json = client.post("/v1/invert", json={"model": "movable", "image": encoded})
    assert by_json.json() == post(client, *files).json()
    single = {"model": "movable", "image": f"data:image/png;base64,{encoded[0]}"}
    assert client.post("/v1/invert", json=single).json()["images"] == by_json.json()["images"][:1]


def test_images_archives_and_arrays_hold_the_latents(client, load, drawn_repository, tmp_path):
    files = [png(image) for image in load("movable").generate([1, 2])]
    found = post(client, *files).json()["images"]
    w = [decode_floats(each["w"]).reshape(LAYERS, W) for each in found]
    np.testing.assert_array_equal(npy_pixels(post(client, *files, format="npy")), w)

    archive = zipfile.ZipFile(io.BytesIO(post(client, *files, format="zip").content))
    names = [f"{i}-photo-{i}.{kind}" for i in (0, 1) for kind in ("png", "w.npy")]
    assert archive.namelist() == names
    np.testing.assert_array_equal(np.load(io.BytesIO(archive.read(names[3]))), w[1])

    response = post(client, files[0], accept="image/png")
    record = json.loads(Image.open(io.BytesIO(response.content)).info["ganymede"])
    assert (record["w"], record["inversion"]) == (found[0]["w"], found[0]["inversion"])
    assert response.headers["x-ganymede-w"] == found[0]["w"]
    assert float(response.headers["x-ganymede-psnr"]) == pytest.approx(
        found[0]["inversion"]["psnr"], rel=1e-5
    )
    path = tmp_path / "reconstruction.png"
    path.write_bytes(response.content)
    assert reproduce(path, drawn_repository).identical


def test_model_without_encoder_is_a_problem_that_says_how_to_train_one(client, load):
    response = post(client, png(load("movable").generate([1])[0]), model="painted")
    assert_problem(response, 422, "model")
    assert response.json()["type"] == "urn:ganymede:problem:no-encoder"
    assert "`ganymede train-encoder painted`" in response.json()["detail"]


@pytest.mark.parametrize(
    ("files", "fields", "field", "kind"),
    [
        ((b"no image",), {}, "image.0", "not-a-picture"),
        ((png(np.zeros((9, 9, 3), np.uint8)), b"GIF89a"), {}, "image.1", None),
        ((png(np.zeros((9, 9, 3), np.uint8)),), {"class": "dog"}, "class", "invalid-request"),
        (
            (png(np.zeros((9, 9, 3), np.uint8)),),
            {"model": "movable-classes", "class": "cow"},
            "class",
            "invalid-request",
        ),
        ((png(np.zeros((9, 9, 3), np.uint8)),), {"passes": "9"}, "passes", "invalid-request"),
        (
            (png(np.zeros((9, 9, 3), np.uint8)),) * 100,
            {"model": "movable-classes"},
            "class",
            "invalid-request",
        ),
    ],
)
def test_invalid_requests_are_problems(client, files, fields, field, kind):
    response = post(client, *files, **fields)
    assert_problem(response, 422, field)
    if kind:
        assert response.json()["type"] == f"urn:ganymede:problem:{kind}"


@pytest.mark.slow
def test_images_beyond_the_memory_are_a_problem(drawn_repository, load):
    # The bound of the queue is that of uploads in memory: here eight images.
    environment = {"GANYMEDE_QUEUE_PIXELS": str(8 * SIZE * SIZE)}
    images = [png(each) for each in load("movable").generate(range(5))]
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        assert post(client, *images[:4]).is_success
        response = post(client, *images)
        assert_problem(response, 422, "image")
        assert response.json()["type"] == "urn:ganymede:problem:picture-too-large"
        assert "send fewer images" in response.json()["detail"]
        # What was reserved is free again.
        assert post(client, *images[:4]).is_success


@pytest.mark.slow
def test_all_passes_count_toward_the_rate_limit_from_the_start(drawn_repository, load, tmp_path):
    # The first image of each class, and in each pass the encoder and the generator.
    pixels = 3 * (1 + 2 * PASSES) * SIZE * SIZE
    key = add_key(tmp_path / "keys.json", "one", pixels_per_minute=pixels)
    image, other = map(png, load("movable-classes").generate([1, 2]))
    flags = ("--keys", str(tmp_path / "keys.json"))
    with (
        serving(drawn_repository, *flags) as server,
        server.client(headers={"authorization": f"Bearer {key}"}) as client,
    ):
        response = post(client, image, other, model="movable-classes")
        assert_problem(response, 422)
        assert response.json()["type"].endswith("larger-than-allowance")
        # Nothing of it was charged.
        assert post(client, image, model="movable-classes").is_success
        late = post(client, image, model="movable-classes")
        assert (late.status_code, late.json()["type"]) == (429, "urn:ganymede:problem:rate-limited")


def test_a_missing_image_is_a_problem(client):
    assert_problem(client.post("/v1/invert", json={"model": "movable"}), 422, "image")


def test_open_inference_lists_and_runs_the_encoder(client, load):
    index = client.post("/v2/repository/index").json()
    assert {"movable:encoder", "movable-classes:encoder"} <= {each["name"] for each in index}
    metadata = client.get("/v2/models/movable:encoder").json()
    assert {each["name"] for each in metadata["inputs"]} == {"image", "reconstruction", "w"}
    assert metadata["outputs"] == [{"name": "new_w", "datatype": "FP32", "shape": [-1, LAYERS, W]}]
    (image,) = load("movable").generate([1])
    shape = [1, SIZE, SIZE, 3]
    pixels = {"datatype": "UINT8", "shape": shape, "data": image.ravel().tolist()}
    w = {"name": "w", "datatype": "FP32", "shape": [1, LAYERS, W], "data": [0.25] * LAYERS * W}
    inputs = [{"name": "image", **pixels}, {"name": "reconstruction", **pixels}, w]
    answer = client.post("/v2/models/movable:encoder/infer", json={"inputs": inputs}).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], 0.25, atol=1e-6)
