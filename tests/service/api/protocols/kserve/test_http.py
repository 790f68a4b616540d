"""Triton's unmodified HTTP client against the real service, and requests that it never sends."""

import gzip
import io
import json
import threading
import zlib

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from service.api.protocols.kserve.http_codec import MAX_JSON_BYTES
from service.api.protocols.kserve.inference import MAX_NUMBERS
from service.runtime.latent import seeds as latents
from tests.support.drawn_models import LAYERS, SIZE, W, Z
from tests.support.output_models import ENCODER
from tests.support.servers import serving

PLAIN, BY_CLASS, CUT = "painted", "painted-classes", "cut"
PIXELS_SHAPE = [-1, SIZE, SIZE, 3]
HEADER_LENGTH = "inference-header-content-length"


def connect(server, **options) -> triton.InferenceServerClient:
    address = server.url.removeprefix("http://")
    return triton.InferenceServerClient(address, network_timeout=300, **options)


@pytest.fixture(scope="module")
def client(drawn_server):
    with connect(drawn_server) as client:
        yield client


@pytest.fixture(scope="module")
def raw(drawn_server):
    with drawn_server.client() as client:
        yield client


def tensor(name: str, array, binary: bool = True) -> triton.InferInput:
    infer_input = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return infer_input.set_data_from_numpy(array, binary_data=binary)


def inputs(seeds, classes=None, truncation=None, distribution="normal", binary=True) -> list:
    tensors = [tensor("z", latents.draw(seeds, Z, distribution), binary)]
    if classes is not None:
        tensors.append(tensor("class_index", np.asarray(classes, np.int64), binary))
    if truncation is not None:
        tensors.append(tensor("truncation", np.full(len(seeds), truncation, np.float32), binary))
    return tensors


def generated(raw, **body) -> np.ndarray:
    response = raw.post("/v1/generate", json={"format": "npy"} | body)
    assert response.status_code == 200
    return np.load(io.BytesIO(response.content))


def test_server_metadata_and_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "ganymede"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.is_model_ready(CUT)
    assert client.is_model_ready(CUT, "1")
    assert client.is_model_ready(f"{PLAIN}:mapping")
    assert not client.is_model_ready(CUT, "9")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready(f"{CUT}:mapping")


def test_repository_index_lists_every_graph(client):
    listed = client.get_model_repository_index()
    assert [one["name"] for one in listed] == [
        CUT,
        *(f"movable{role}" for role in ("", ":mapping", ":synthesis", ":encoder")),
        *(f"movable-classes{role}" for role in ("", ":encoder")),
        *(name + role for name in (PLAIN, BY_CLASS) for role in ("", ":mapping", ":synthesis")),
    ]
    assert {(one["version"], one["state"], one["reason"]) for one in listed} == {("1", "READY", "")}


def test_metadata_describes_inputs_and_outputs(client):
    def described(name, version=""):
        metadata = client.get_model_metadata(name, version)
        assert (metadata["name"], metadata["versions"]) == (name, ["1"])
        return [
            {one["name"]: (one["datatype"], one["shape"]) for one in metadata[side]}
            for side in ("inputs", "outputs")
        ]

    pixels = {"pixels": ("UINT8", PIXELS_SHAPE)}
    latent = {"z": ("FP32", [-1, Z]), "truncation": ("FP32", [-1])}
    by_weights = latent | {"class_weights": ("FP32", [-1, 3])}
    by_index = latent | {"class_index": ("INT64", [-1])}
    styles = {"w": ("FP32", [-1, LAYERS, W])}
    assert described(PLAIN) == [{"z": ("FP32", [-1, Z])}, pixels]
    assert described(CUT, "1") == [by_weights, pixels]
    assert described(BY_CLASS) == [by_index, pixels]
    assert described(f"{BY_CLASS}:mapping") == [by_index, styles]
    assert described(f"{BY_CLASS}:synthesis") == [styles, pixels]


def test_config_describes_graph(client):
    config = client.get_model_config(CUT)
    assert config["max_batch_size"] == 256
    assert config["backend"] == "onnxruntime"
    assert config["input"][0] == {"name": "z", "data_type": "TYPE_FP32", "dims": [Z]}
    assert config["output"] == [
        {"name": "pixels", "data_type": "TYPE_UINT8", "dims": PIXELS_SHAPE[1:]}
    ]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_infer_equals_generate(client, raw, binary_in, binary_out, compression):
    seeds, classes = [3, 1, 4, 1, 5], [2, 1, 0, 2, 1]
    response = client.infer(
        BY_CLASS,
        inputs(seeds, classes, 0.6, binary=binary_in),
        outputs=[triton.InferRequestedOutput("pixels", binary_data=binary_out)],
        request_id="request-7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = generated(raw, model=BY_CLASS, seeds=seeds, truncation=0.6, **{"class": classes})
    pixels = response.as_numpy("pixels")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)
    header = response.get_response()
    identity = (header["id"], header["model_name"], header["model_version"])
    assert identity == ("request-7", BY_CLASS, "1")
    assert ("data" in header["outputs"][0]) != binary_out


def test_class_weights_blend_classes(client, raw):
    z = latents.draw([3, 1], Z, "truncated-normal")
    weights = np.array([[0, 1, 0], [0.25, 0, 0.75]], np.float32)
    tensors = [
        tensor("z", z),
        tensor("class_weights", weights),
        tensor("truncation", np.full(2, 0.6, np.float32)),
    ]
    pixels = client.infer(CUT, tensors).as_numpy("pixels")
    images = [{"seed": 3, "class": 1}, {"seed": 1, "blend": {"0": 1, "2": 3}}]
    np.testing.assert_array_equal(pixels, generated(raw, model=CUT, images=images, truncation=0.6))


def test_style_model_runs_all_graphs_or_one_role(client, raw):
    seeds, classes = list(range(20)), [seed % 3 for seed in range(20)]
    expected = generated(raw, model=BY_CLASS, seeds=seeds, truncation=0.3, **{"class": classes})
    tensors = inputs(seeds, classes, 0.3)
    output = client.infer(BY_CLASS, tensors, model_version="1")
    np.testing.assert_array_equal(output.as_numpy("pixels"), expected)
    # Without requested outputs, the client requests all of them as binary data.
    w = client.infer(f"{BY_CLASS}:mapping", tensors).as_numpy("w")
    assert (w.dtype, w.shape) == (np.float32, (20, LAYERS, W))
    for binary in (True, False):
        halves = client.infer(f"{BY_CLASS}:synthesis", [tensor("w", w, binary)])
        np.testing.assert_array_equal(halves.as_numpy("pixels"), expected)
    as_json = client.infer(
        f"{BY_CLASS}:mapping",
        tensors,
        outputs=[triton.InferRequestedOutput("w", binary_data=False)],
    )
    np.testing.assert_array_equal(as_json.as_numpy("w"), w)


def test_concurrent_requests_get_their_own_rows(drawn_server, raw):
    with connect(drawn_server, concurrency=16) as client:
        requests = [client.async_infer(PLAIN, inputs([seed])) for seed in range(64)]
        rows = [one.get_result().as_numpy("pixels")[0] for one in requests]
    np.testing.assert_array_equal(rows, generated(raw, model=PLAIN, seeds=list(range(64))))


def test_metadata_marks_optional_inputs_and_ranges(client):
    def parameters(name):
        return {
            one["name"]: one.get("parameters") for one in client.get_model_metadata(name)["inputs"]
        }

    truncation = {"optional": True, "minimum": 0.0, "maximum": 1.5, "default": 0.7}
    assert parameters(CUT) == {
        "z": None,
        "class_weights": {"optional": True, "minimum": 0, "maximum": 1},
        "truncation": truncation,
    }
    assert parameters(BY_CLASS)["class_index"] == {"optional": True, "minimum": 0, "maximum": 2}
    optional = {one["name"]: one.get("optional") for one in client.get_model_config(CUT)["input"]}
    assert optional == {"z": None, "class_weights": True, "truncation": True}


@pytest.mark.parametrize("model", [CUT, BY_CLASS, f"{BY_CLASS}:mapping"])
def test_z_alone_gets_the_defaults_of_generate(client, raw, model):
    z = latents.draw([5, 6, 7, 8], Z, "normal")
    result = client.infer(model, [tensor("z", z)])
    if model.endswith(":mapping"):
        result = client.infer(f"{BY_CLASS}:synthesis", [tensor("w", result.as_numpy("w"))])
    expected = generated(raw, model=model.partition(":")[0], z=z.tolist())
    np.testing.assert_array_equal(result.as_numpy("pixels"), expected)


def test_rejects_class_weights_of_zero(client):
    weights = np.eye(3, dtype=np.float32)[:2]
    tensors = [tensor("z", latents.draw([5, 6], Z, "normal")), tensor("class_weights", weights)]
    assert client.infer(CUT, tensors).as_numpy("pixels").shape[0] == 2
    weights[1] = 0
    tensors[1] = tensor("class_weights", weights)
    with pytest.raises(InferenceServerException, match="at least one value above 0 in every row"):
        client.infer(CUT, tensors)


@pytest.mark.parametrize(
    ("model", "make_inputs", "message"),
    [
        (BY_CLASS, lambda: inputs([1], [0], 1.0)[1:], "z missing"),
        (BY_CLASS, lambda: inputs([1], [3], 1.0), "class_index: expected 0 to 2, got 3"),
        (BY_CLASS, lambda: inputs([1], [-1], 1.0), "class_index: expected 0 to 2, got -1"),
        (BY_CLASS, lambda: inputs([1], [0], 1.6), "truncation: expected 0 to 1.5"),
        (BY_CLASS, lambda: inputs([1], [0], np.nan), "truncation: expected finite numbers"),
        (BY_CLASS, lambda: inputs([1, 2], [0], 1.0), "z has 2, class_index has 1"),
        (PLAIN, list, "z missing"),
        (PLAIN, lambda: inputs([1], [0]), "inputs[1].name: expected z, each once"),
        (PLAIN, lambda: inputs([1]) * 2, "inputs[1].name: expected z, each once"),
        (PLAIN, lambda: [tensor("z", np.zeros((1, Z)))], "expected FP32 for z, got 'FP64'"),
        (PLAIN, lambda: [tensor("z", np.zeros((1, Z + 1), np.float32))], f"[N, {Z}]"),
        (PLAIN, lambda: [tensor("z", np.zeros(Z, np.float32))], f"[N, {Z}]"),
        (PLAIN, lambda: [tensor("z", np.zeros((0, Z), np.float32))], "N from 1 to 256"),
        (PLAIN, lambda: [tensor("z", np.zeros((257, Z), np.float32))], "N from 1 to 256"),
        (PLAIN, lambda: [tensor("z", np.full((1, Z), np.inf, np.float32))], "finite"),
        (PLAIN, lambda: [tensor("z", np.full((1, Z), np.nan, np.float32), False)], "finite"),
        (
            f"{PLAIN}:synthesis",
            lambda: [tensor("w", np.full((1, LAYERS, W), -np.inf, np.float32))],
            "w: expected finite numbers",
        ),
    ],
)
def test_rejects_invalid_tensors(client, model, make_inputs, message):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, make_inputs())
    assert caught.value.status() == "400"
    assert message in caught.value.message()


def test_rejects_unsupported_features(client):
    in_shared_memory = triton.InferInput("z", [1, Z], "FP32")
    in_shared_memory.set_shared_memory("region", 4 * Z)
    calls = {
        "shared memory": lambda: client.infer(PLAIN, [in_shared_memory]),
        "classification": lambda: client.infer(
            PLAIN, inputs([1]), outputs=[triton.InferRequestedOutput("pixels", class_count=2)]
        ),
        "sequences": lambda: client.infer(PLAIN, inputs([1]), sequence_id=1),
        "one of pixels": lambda: client.infer(
            PLAIN, inputs([1]), outputs=[triton.InferRequestedOutput("w")]
        ),
    }
    for message, call in calls.items():
        with pytest.raises(InferenceServerException, match=message) as caught:
            call()
        assert caught.value.status() == "400"


def test_unknown_names_are_404_with_known_names(client):
    calls = {
        "available: cut, movable": lambda: client.infer("nope", inputs([1])),
        "available: 1": lambda: client.infer(PLAIN, inputs([1]), model_version="9"),
        "known graphs: painted, painted:mapping, painted:synthesis": lambda: client.infer(
            f"{PLAIN}:nope", inputs([1])
        ),
        "/metrics": client.get_inference_statistics,
        "no such route": lambda: client.load_model(PLAIN),
    }
    for message, call in calls.items():
        with pytest.raises(InferenceServerException, match=message) as caught:
            call()
        assert caught.value.status() == "404"


def test_timeout_parameter_is_a_deadline(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(PLAIN, inputs([1]), timeout=1)
    assert caught.value.status() == "504"
    assert client.infer(PLAIN, inputs([1]), timeout=60_000_000, priority=1).as_numpy("pixels").any()


@pytest.mark.parametrize("priority", [0, 1, 2, 3])
def test_priority_does_not_change_pixels(client, priority):
    pixels = client.infer(PLAIN, inputs([1]), priority=priority).as_numpy("pixels")
    np.testing.assert_array_equal(pixels, client.infer(PLAIN, inputs([1])).as_numpy("pixels"))


@pytest.mark.parametrize("priority", [4, -1, 1.0, True, "high"])
def test_other_priorities_are_refused(raw, priority):
    z = {"name": "z", "shape": [1, Z], "datatype": "FP32", "data": [0.0] * Z}
    body = {"inputs": [z], "parameters": {"priority": priority}}
    response = raw.post(f"/v2/models/{PLAIN}/infer", json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("parameters.priority: expected 0 (the default)")


@pytest.mark.slow
def test_full_queue_is_429_with_retry_after(slow_repository):
    model, z = "dcgan-fashion", latents.draw(range(128), 100)
    images: list[np.ndarray] = []
    refused: list[InferenceServerException] = []
    json_responses: list[httpx.Response] = []

    def infer_binary() -> None:
        with connect(server) as client:
            try:
                images.append(client.infer(model, [tensor("z", z)]).as_numpy("pixels"))
            except InferenceServerException as error:
                refused.append(error)

    def infer_json() -> None:
        one = {"name": "z", "shape": list(z.shape), "datatype": "FP32", "data": z.tolist()}
        with server.client() as client:
            json_responses.append(client.post(f"/v2/models/{model}/infer", json={"inputs": [one]}))

    environment = {"GANYMEDE_QUEUE_PIXELS": str(len(z) * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        threads = [threading.Thread(target=target) for target in [infer_binary, infer_json] * 10]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(images) + len(refused) == len(json_responses) == 10
    assert refused
    for error in refused:
        assert error.status() == "429"
        assert "queue is full" in error.message()
    rejected = [response for response in json_responses if response.status_code == 429]
    assert rejected
    for response in rejected:
        assert int(response.headers["retry-after"]) >= 1
        assert "queue is full" in response.json()["error"]
    all_images = [
        np.array(a.json()["outputs"][0]["data"]) for a in json_responses if a.status_code == 200
    ]
    all_images += [pixels.ravel() for pixels in images]
    assert all_images
    assert all(np.array_equal(one, all_images[0]) for one in all_images)


@pytest.mark.slow
def test_failed_model_is_unavailable(models):
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with serving(models) as server, connect(server) as client:
        states = {one["name"]: one for one in client.get_model_repository_index()}
        assert states["gan-mnist"]["state"] == "UNAVAILABLE"
        assert "sha256" in states["gan-mnist"]["reason"]
        assert states["dcgan-fashion"]["state"] == "READY"
        assert client.is_server_ready()
        assert not client.is_model_ready("gan-mnist")
        with pytest.raises(InferenceServerException, match="sha256") as caught:
            client.infer("gan-mnist", inputs([1]))
        assert caught.value.status() == "503"
        with server.client() as raw:
            ready = raw.post("/v2/repository/index", json={"ready": True}).json()
            assert {one["name"] for one in ready} == set(states) - {"gan-mnist"}


@pytest.mark.slow
def test_service_without_models_is_live_but_not_ready(tmp_path):
    with serving(tmp_path, until="live") as server, connect(server) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException) as caught:
            client.get_model_metadata("any")
        assert caught.value.status() == "503"


def row_of_z(**changes) -> dict:
    return {"name": "z", "shape": [1, Z], "datatype": "FP32", "data": [0.5] * Z} | changes


def infer(raw, body, **headers) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return raw.post(f"/v2/models/{PLAIN}/infer", content=content, headers=headers)


def assert_rejected(response: httpx.Response, status: int, message: str = "") -> None:
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_json_data_may_be_nested_or_flat(raw):
    flat = infer(raw, {"inputs": [row_of_z()]})
    nested = infer(raw, {"inputs": [row_of_z(data=[[0.5] * Z])]})
    assert flat.status_code == nested.status_code == 200
    assert flat.headers["content-type"] == "application/json"
    assert flat.json() == nested.json()
    assert flat.json()["outputs"][0]["shape"] == [1, *PIXELS_SHAPE[1:]]
    assert len(flat.json()["outputs"][0]["data"]) == SIZE * SIZE * 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"inputs": ' + b"[" * 400 + b"]" * 400 + b"}", "object"),
        (b"\xff", "not JSON"),
        ([], "the body: expected an object"),
        ({}, "inputs: expected a list"),
        ({"inputs": {}}, "inputs: expected a list"),
        ({"inputs": [7]}, "inputs[0]: expected an object"),
        ({"inputs": [row_of_z(name=7)]}, "name: expected a string"),
        ({"inputs": [row_of_z(shape=None)]}, "shape: expected"),
        ({"inputs": [row_of_z(shape=[True, Z])]}, "shape: expected"),
        ({"inputs": [row_of_z(shape=[1.0, Z])]}, "shape: expected"),
        ({"inputs": [row_of_z(shape=[10**40, Z])]}, "shape: expected"),
        ({"inputs": [row_of_z(shape=[[1], Z])]}, "shape: expected"),
        ({"inputs": [row_of_z(datatype=None)]}, "expected FP32 for z"),
        ({"inputs": [row_of_z(data=None)]}, "expected a list of numbers"),
        ({"inputs": [row_of_z(data="0.5")]}, "expected a list of numbers"),
        ({"inputs": [row_of_z(data=[0.5])]}, "expected [1, 16], got [1]"),
        ({"inputs": [row_of_z(data=["0.5"] * Z)]}, "expected numbers"),
        ({"inputs": [row_of_z(data=[True] * Z)]}, "expected numbers"),
        ({"inputs": [row_of_z(data=[None] * Z)]}, "expected numbers"),
        ({"inputs": [row_of_z(data=[[0.5], 0.5])]}, "expected numbers"),
        ({"inputs": [row_of_z(data=[10**400] * Z)]}, "expected numbers"),
        ({"inputs": [row_of_z(data=[1e39] * Z)]}, "finite"),
        (
            b'{"inputs": [{"name": "z", "shape": [1, 16], "datatype": "FP32", "data": ['
            + b"NaN," * 15
            + b"Infinity]}]}",
            "finite",
        ),
        ({"inputs": [row_of_z(parameters=[])]}, "parameters: expected an object"),
        (
            {"inputs": [row_of_z(parameters={"binary_data_size": 64})]},
            "0 bytes are left in the body",
        ),
        ({"inputs": [row_of_z(parameters={"binary_data_size": "64"})]}, "expected 64"),
        ({"inputs": [row_of_z()], "id": 7}, "id: expected a string"),
        ({"inputs": [row_of_z()], "parameters": 7}, "parameters: expected an object"),
        ({"inputs": [row_of_z()], "parameters": {"timeout": -1}}, "microseconds"),
        ({"inputs": [row_of_z()], "parameters": {"timeout": "1"}}, "microseconds"),
        ({"inputs": [row_of_z()], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [row_of_z()], "outputs": {}}, "outputs: expected a list"),
        ({"inputs": [row_of_z()], "outputs": [{"name": "pixels"}] * 2}, "each at most once"),
        (
            {
                "inputs": [row_of_z()],
                "outputs": [{"name": "pixels", "parameters": {"binary_data": 1}}],
            },
            "true or false",
        ),
    ],
)
def test_rejects_malformed_body(raw, body, message):
    assert_rejected(infer(raw, body), 400, message)


def binary_request(sizes: int, blob: bytes) -> tuple[bytes, bytes]:
    one = {"name": "z", "shape": [1, Z], "datatype": "FP32"}
    text = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": sizes}}]}).encode()
    return text, text + blob


def test_binary_data_must_match_header_length(raw):
    blob = np.full(Z, 0.5, "<f4").tobytes()
    text, body = binary_request(len(blob), blob)
    valid = infer(raw, body, **{HEADER_LENGTH: str(len(text))})
    assert valid.status_code == 200
    assert valid.json() == infer(raw, {"inputs": [row_of_z()]}).json()
    for length in ("-1", "+5", "x", "", "1" * 40, "²", "1_0"):
        refused = raw.post(
            f"/v2/models/{PLAIN}/infer",
            content=body,
            headers={HEADER_LENGTH: length.encode("latin-1")},
        )
        assert_rejected(refused, 400)
    for length in (0, 3, len(text) - 1, len(text) + 1, len(body), len(body) + 1):
        assert_rejected(infer(raw, body, **{HEADER_LENGTH: str(length)}), 400)
    assert_rejected(infer(raw, body), 400, "not JSON")
    for cut in (body[:-1], body + b"\0"):
        assert_rejected(infer(raw, cut, **{HEADER_LENGTH: str(len(text))}), 400)
    text, body = binary_request(len(blob) - 4, blob[4:])
    assert_rejected(infer(raw, body, **{HEADER_LENGTH: str(len(text))}), 400, "expected 64")


@pytest.mark.slow
def test_compressed_bodies_are_bounded_after_decompression(raw):
    plain = json.dumps({"inputs": [row_of_z()]}).encode()
    packed = gzip.compress(plain)
    assert infer(raw, packed, content_encoding="GZIP").status_code == 200
    assert infer(raw, plain, content_encoding="identity").status_code == 200
    assert_rejected(infer(raw, plain, content_encoding="br"), 415, "gzip")
    assert_rejected(infer(raw, plain, content_encoding="gzip"), 400, "not valid gzip")
    assert_rejected(
        infer(raw, zlib.compress(plain), content_encoding="gzip"), 400, "not valid gzip"
    )
    assert_rejected(infer(raw, packed[:-4], content_encoding="gzip"), 400, "truncated")
    assert_rejected(
        infer(raw, packed + b"more", content_encoding="gzip"), 400, "followed by other data"
    )
    bomb = gzip.compress(bytes(1 << 30), 9)
    assert_rejected(infer(raw, bomb, content_encoding="gzip"), 413, "bytes")


def test_rejects_oversized_body_while_reading(raw):
    def in_pieces():
        for _ in range(2 * MAX_JSON_BYTES // 2**16):
            yield bytes(2**16)

    refused = raw.post(f"/v2/models/{PLAIN}/infer", content=in_pieces())
    assert_rejected(refused, 413, "the body exceeds")
    long = b" " * MAX_JSON_BYTES + json.dumps({"inputs": [row_of_z()]}).encode()
    assert_rejected(infer(raw, long), 413, "send the tensors as binary data")


def test_rejects_a_million_empty_lists(raw):
    body = b'{"inputs": [' + b"[]," * (MAX_JSON_BYTES // 3 - 10) + b"[]]}"
    assert_rejected(infer(raw, body), 400, "lists and objects")
    # As many as in the largest valid request with nested data.
    rows = {"shape": [256, Z], "data": [[0.5] * Z] * 256}
    assert infer(raw, {"inputs": [row_of_z(**rows)]}).status_code == 200


@pytest.mark.slow
def test_large_outputs_need_binary_data(drawn_repository):
    rows = MAX_NUMBERS // (SIZE * SIZE * 3) + 1
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_IMAGES": str(rows)}) as server,
        connect(server) as client,
    ):
        assert client.get_model_config(PLAIN)["max_batch_size"] == rows
        z = inputs(range(rows))
        as_json = [triton.InferRequestedOutput("pixels", binary_data=False)]
        with pytest.raises(InferenceServerException, match="request binary data") as caught:
            client.infer(PLAIN, z, outputs=as_json)
        assert caught.value.status() == "400"
        assert client.infer(PLAIN, z).as_numpy("pixels").shape == (rows, *PIXELS_SHAPE[1:])


def test_all_v2_errors_have_the_same_format(raw):
    assert_rejected(raw.get("/v2/nope"), 404, "no such route")
    response = raw.get(f"/v2/models/{PLAIN}/infer")
    assert_rejected(response, 405)
    assert response.headers["allow"] == "POST"
    assert_rejected(raw.post("/v2/repository/index", content=b"{"), 400, "not JSON")
    assert_rejected(raw.post("/v2/repository/index", content=b"[7]"), 400, "ready")
    assert_rejected(raw.post("/v2/repository/index", json={"ready": 1}), 400, "ready")
    assert_rejected(raw.post("/v2/repository/index", content=bytes(10_000)), 413)
    assert raw.get("/v2elsewhere").headers["content-type"] == "application/problem+json"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)
# Often valid, so that invalid values pass the first check.
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": st.sampled_from([0, 4, 64, 128]) | ANY_JSON,
        "binary_data": st.booleans() | ANY_JSON,
        "binary_data_output": st.booleans() | ANY_JSON,
        "timeout": st.integers(1, 10**9) | ANY_JSON,
        "sequence_id": st.just(0) | ANY_JSON,
    },
)
TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(["z", "class_index", "class_weights", "truncation"]) | ANY_JSON},
    optional={
        "shape": st.sampled_from([[1, Z], [1], [2, Z]]) | ANY_JSON,
        "datatype": st.sampled_from(["FP32", "INT64"]) | ANY_JSON,
        "data": st.lists(st.floats(width=32) | st.integers(), min_size=Z, max_size=Z)
        | st.lists(st.integers(-1, 3), min_size=1, max_size=2)
        | ANY_JSON,
        "parameters": PARAMETERS | ANY_JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=4) | ANY_JSON},
    optional={
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.just("pixels") | ANY_JSON, "parameters": PARAMETERS})
        )
        | ANY_JSON,
        "parameters": PARAMETERS | ANY_JSON,
        "id": st.text() | ANY_JSON,
    },
)


@given(
    model=st.sampled_from([PLAIN, CUT, f"{BY_CLASS}:mapping", f"{BY_CLASS}:synthesis"]),
    request=REQUESTS | ANY_JSON,
    blob=st.binary(max_size=160) | st.just(bytes(64)),
    off=st.sampled_from([None, 0, 0, 0, -1, 1]),
)
@settings(max_examples=200, deadline=None)
def test_no_json_body_gives_a_5xx(raw, model, request, blob, off):
    text = json.dumps(request).encode()
    headers = {} if off is None else {HEADER_LENGTH: str(max(len(text) + off, 0))}
    response = raw.post(f"/v2/models/{model}/infer", content=text + blob, headers=headers)
    # The timeout of a request may be microseconds, and have passed already.
    assert response.status_code < 500 or response.status_code == 504
    if response.status_code != 200:
        assert response.json()["error"]


@given(
    content=st.binary(max_size=80),
    length=st.none() | st.integers(0, 90).map(str),
    encoding=st.sampled_from(["", "gzip", "deflate", "br"]),
)
@settings(max_examples=100, deadline=None)
def test_no_bytes_give_a_5xx(raw, content, length, encoding):
    headers = {"content-encoding": encoding} | ({HEADER_LENGTH: length} if length else {})
    response = raw.post(f"/v2/models/{PLAIN}/infer", content=content, headers=headers)
    assert 400 <= response.status_code < 500
    assert response.json()["error"]


def test_log_has_no_stack_trace(drawn_server):
    assert "Traceback" not in drawn_server.logged()


def test_text_encoder_has_no_graph(output_server):
    for path in (f"/v2/models/{ENCODER}", f"/v2/models/{ENCODER}:text_encoder"):
        response = httpx.get(output_server.url + path)
        assert response.status_code == 404
        assert "encodes the prompts of other models" in response.json()["error"]
