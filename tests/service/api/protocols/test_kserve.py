"""Triton's own HTTP client, unchanged, against the real service; and what it would never send."""

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

from service.api.protocols.kserve_codec import MOST_JSON, MOST_JSON_NUMBERS
from service.runtime.latent import seeds as latents
from tests.support.drawn_models import LAYERS, SIZE, W, Z
from tests.support.servers import serving

PLAIN, BY_CLASS, CUT = "painted", "painted-classes", "cut"
PICTURE = [-1, SIZE, SIZE, 3]
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
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array, binary_data=binary)


def inputs(seeds, classes=None, truncation=None, distribution="normal", binary=True) -> list:
    made = [tensor("z", latents.draw(seeds, Z, distribution), binary)]
    if classes is not None:
        made.append(tensor("class_index", np.asarray(classes, np.int64), binary))
    if truncation is not None:
        made.append(tensor("truncation", np.full(len(seeds), truncation, np.float32), binary))
    return made


def generated(raw, **body) -> np.ndarray:
    answer = raw.post("/v1/generate", json={"format": "npy"} | body)
    assert answer.status_code == 200
    return np.load(io.BytesIO(answer.content))


def test_the_server_its_models_and_its_health_are_asked_for(client):
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


def test_the_repository_index_lists_every_graph(client):
    listed = client.get_model_repository_index()
    assert [one["name"] for one in listed] == [
        CUT,
        *(name + role for name in (PLAIN, BY_CLASS) for role in ("", ":mapping", ":synthesis")),
    ]
    assert {(one["version"], one["state"], one["reason"]) for one in listed} == {("1", "READY", "")}


def test_metadata_says_what_each_graph_takes_and_gives(client):
    def described(name, version=""):
        metadata = client.get_model_metadata(name, version)
        assert (metadata["name"], metadata["versions"]) == (name, ["1"])
        return [
            {one["name"]: (one["datatype"], one["shape"]) for one in metadata[side]}
            for side in ("inputs", "outputs")
        ]

    pixels = {"pixels": ("UINT8", PICTURE)}
    latent = {"z": ("FP32", [-1, Z]), "truncation": ("FP32", [-1])}
    by_weights = latent | {"class_weights": ("FP32", [-1, 3])}
    by_index = latent | {"class_index": ("INT64", [-1])}
    styles = {"w": ("FP32", [-1, LAYERS, W])}
    assert described(PLAIN) == [{"z": ("FP32", [-1, Z])}, pixels]
    assert described(CUT, "1") == [by_weights, pixels]
    assert described(BY_CLASS) == [by_index, pixels]
    assert described(f"{BY_CLASS}:mapping") == [by_index, styles]
    assert described(f"{BY_CLASS}:synthesis") == [styles, pixels]


def test_the_configuration_is_that_of_the_graph(client):
    config = client.get_model_config(CUT)
    assert config["max_batch_size"] == 256
    assert config["backend"] == "onnxruntime"
    assert config["input"][0] == {"name": "z", "data_type": "TYPE_FP32", "dims": [Z]}
    assert config["output"] == [{"name": "pixels", "data_type": "TYPE_UINT8", "dims": PICTURE[1:]}]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_rows_equal_the_pictures_of_generate(client, raw, binary_in, binary_out, compression):
    seeds, classes = [3, 1, 4, 1, 5], [2, 1, 0, 2, 1]
    answer = client.infer(
        BY_CLASS,
        inputs(seeds, classes, 0.6, binary=binary_in),
        outputs=[triton.InferRequestedOutput("pixels", binary_data=binary_out)],
        request_id="request-7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = generated(raw, model=BY_CLASS, seeds=seeds, truncation=0.6, **{"class": classes})
    made = answer.as_numpy("pixels")
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, expected)
    said = answer.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("request-7", BY_CLASS, "1")
    assert ("data" in said["outputs"][0]) != binary_out


def test_classes_by_their_weights_are_blended(client, raw):
    z = latents.draw([3, 1], Z, "truncated-normal")
    weights = np.array([[0, 1, 0], [0.25, 0, 0.75]], np.float32)
    given_inputs = [
        tensor("z", z),
        tensor("class_weights", weights),
        tensor("truncation", np.full(2, 0.6, np.float32)),
    ]
    made = client.infer(CUT, given_inputs).as_numpy("pixels")
    images = [{"seed": 3, "class": 1}, {"seed": 1, "blend": {"0": 1, "2": 3}}]
    np.testing.assert_array_equal(made, generated(raw, model=CUT, images=images, truncation=0.6))


def test_a_model_of_styles_runs_whole_or_a_half_at_a_time(client, raw):
    seeds, classes = list(range(20)), [seed % 3 for seed in range(20)]
    expected = generated(raw, model=BY_CLASS, seeds=seeds, truncation=0.3, **{"class": classes})
    given_latents = inputs(seeds, classes, 0.3)
    whole = client.infer(BY_CLASS, given_latents, model_version="1")
    np.testing.assert_array_equal(whole.as_numpy("pixels"), expected)
    # Without requested outputs the client asks for all of them as binary data.
    w = client.infer(f"{BY_CLASS}:mapping", given_latents).as_numpy("w")
    assert (w.dtype, w.shape) == (np.float32, (20, LAYERS, W))
    for binary in (True, False):
        halves = client.infer(f"{BY_CLASS}:synthesis", [tensor("w", w, binary)])
        np.testing.assert_array_equal(halves.as_numpy("pixels"), expected)
    as_json = client.infer(
        f"{BY_CLASS}:mapping",
        given_latents,
        outputs=[triton.InferRequestedOutput("w", binary_data=False)],
    )
    np.testing.assert_array_equal(as_json.as_numpy("w"), w)


def test_requests_side_by_side_get_their_own_rows(drawn_server, raw):
    with connect(drawn_server, concurrency=16) as client:
        asked = [client.async_infer(PLAIN, inputs([seed])) for seed in range(64)]
        rows = [one.get_result().as_numpy("pixels")[0] for one in asked]
    np.testing.assert_array_equal(rows, generated(raw, model=PLAIN, seeds=list(range(64))))


@pytest.mark.parametrize(
    ("model", "given_inputs", "says"),
    [
        (BY_CLASS, lambda: inputs([1]), "class_index, truncation missing"),
        (BY_CLASS, lambda: inputs([1], [3], 1.0), "class_index: expected 0 to 2, got 3"),
        (BY_CLASS, lambda: inputs([1], [-1], 1.0), "class_index: expected 0 to 2, got -1"),
        (BY_CLASS, lambda: inputs([1], [0], 1.6), "truncation: expected 0 to 1.5"),
        (BY_CLASS, lambda: inputs([1], [0], np.nan), "truncation: expected finite numbers"),
        (BY_CLASS, lambda: inputs([1, 2], [0], 1.0), "z has 2, class_index has 1"),
        (PLAIN, list, "z missing"),
        (PLAIN, lambda: inputs([1], [0]), "inputs[1].name: expected each of z once"),
        (PLAIN, lambda: inputs([1]) * 2, "inputs[1].name: expected each of z once"),
        (PLAIN, lambda: [tensor("z", np.zeros((1, Z)))], "z is FP32, got 'FP64'"),
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
def test_inputs_that_do_not_fit_are_refused_with_what_would(client, model, given_inputs, says):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, given_inputs())
    assert caught.value.status() == "400"
    assert says in caught.value.message()


def test_what_is_not_supported_is_refused_and_not_ignored(client):
    in_shared_memory = triton.InferInput("z", [1, Z], "FP32")
    in_shared_memory.set_shared_memory("region", 4 * Z)
    asks = {
        "shared memory": lambda: client.infer(PLAIN, [in_shared_memory]),
        "classification": lambda: client.infer(
            PLAIN, inputs([1]), outputs=[triton.InferRequestedOutput("pixels", class_count=2)]
        ),
        "sequences": lambda: client.infer(PLAIN, inputs([1]), sequence_id=1),
        "some of pixels": lambda: client.infer(
            PLAIN, inputs([1]), outputs=[triton.InferRequestedOutput("w")]
        ),
    }
    for says, ask in asks.items():
        with pytest.raises(InferenceServerException, match=says) as caught:
            ask()
        assert caught.value.status() == "400"


def test_what_is_not_there_is_404_and_says_what_is(client):
    asks = {
        "there are: cut, painted": lambda: client.infer("nope", inputs([1])),
        "there are: 1": lambda: client.infer(PLAIN, inputs([1]), model_version="9"),
        "there are: painted, painted:mapping, painted:synthesis": lambda: client.infer(
            f"{PLAIN}:nope", inputs([1])
        ),
        "/metrics": client.get_inference_statistics,
        "no such route": lambda: client.load_model(PLAIN),
    }
    for says, ask in asks.items():
        with pytest.raises(InferenceServerException, match=says) as caught:
            ask()
        assert caught.value.status() == "404"


def test_a_timeout_is_a_deadline_and_work_past_it_is_not_waited_for(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(PLAIN, inputs([1]), timeout=1)
    assert caught.value.status() == "504"
    assert client.infer(PLAIN, inputs([1]), timeout=60_000_000, priority=1).as_numpy("pixels").any()


def test_a_full_queue_is_429_with_the_time_to_come_again(slow_repository):
    model, z = "dcgan-fashion", latents.draw(range(128), 100)
    made: list[np.ndarray] = []
    refused: list[InferenceServerException] = []
    told: list[httpx.Response] = []

    def ask() -> None:
        with connect(server) as client:
            try:
                made.append(client.infer(model, [tensor("z", z)]).as_numpy("pixels"))
            except InferenceServerException as error:
                refused.append(error)

    def ask_in_json() -> None:
        one = {"name": "z", "shape": list(z.shape), "datatype": "FP32", "data": z.tolist()}
        with server.client() as client:
            told.append(client.post(f"/v2/models/{model}/infer", json={"inputs": [one]}))

    environment = {"GANYMEDE_QUEUE_PIXELS": str(len(z) * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        threads = [threading.Thread(target=target) for target in [ask, ask_in_json] * 10]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) + len(refused) == len(told) == 10
    assert refused
    for error in refused:
        assert error.status() == "429"
        assert "queue is full" in error.message()
    waited = [answer for answer in told if answer.status_code == 429]
    assert waited
    for answer in waited:
        assert int(answer.headers["retry-after"]) >= 1
        assert "queue is full" in answer.json()["error"]
    pictures = [np.array(a.json()["outputs"][0]["data"]) for a in told if a.status_code == 200]
    pictures += [pixels.ravel() for pixels in made]
    assert pictures
    assert all(np.array_equal(one, pictures[0]) for one in pictures)


def test_a_service_that_is_not_ready_says_so(models):
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


def test_a_service_without_models_is_live_and_not_ready(tmp_path):
    with serving(tmp_path, until="live") as server, connect(server) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException) as caught:
            client.get_model_metadata("any")
        assert caught.value.status() == "503"


def one_row(**changes) -> dict:
    return {"name": "z", "shape": [1, Z], "datatype": "FP32", "data": [0.5] * Z} | changes


def infer(raw, body, **headers) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return raw.post(f"/v2/models/{PLAIN}/infer", content=content, headers=headers)


def assert_refused(answer: httpx.Response, status: int, says: str = "") -> None:
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]


def test_json_data_may_be_nested_as_the_shape_is(raw):
    flat = infer(raw, {"inputs": [one_row()]})
    nested = infer(raw, {"inputs": [one_row(data=[[0.5] * Z])]})
    assert flat.status_code == nested.status_code == 200
    assert flat.headers["content-type"] == "application/json"
    assert flat.json() == nested.json()
    assert flat.json()["outputs"][0]["shape"] == [1, *PICTURE[1:]]
    assert len(flat.json()["outputs"][0]["data"]) == SIZE * SIZE * 3


@pytest.mark.parametrize(
    ("body", "says"),
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
        ({"inputs": [one_row(name=7)]}, "name: expected a string"),
        ({"inputs": [one_row(shape=None)]}, "shape: expected"),
        ({"inputs": [one_row(shape=[True, Z])]}, "shape: expected"),
        ({"inputs": [one_row(shape=[1.0, Z])]}, "shape: expected"),
        ({"inputs": [one_row(shape=[10**40, Z])]}, "shape: expected"),
        ({"inputs": [one_row(shape=[[1], Z])]}, "shape: expected"),
        ({"inputs": [one_row(datatype=None)]}, "z is FP32"),
        ({"inputs": [one_row(data=None)]}, "expected a list of numbers"),
        ({"inputs": [one_row(data="0.5")]}, "expected a list of numbers"),
        ({"inputs": [one_row(data=[0.5])]}, "expected [1, 16], got [1]"),
        ({"inputs": [one_row(data=["0.5"] * Z)]}, "expected numbers"),
        ({"inputs": [one_row(data=[True] * Z)]}, "expected numbers"),
        ({"inputs": [one_row(data=[None] * Z)]}, "expected numbers"),
        ({"inputs": [one_row(data=[[0.5], 0.5])]}, "expected numbers"),
        ({"inputs": [one_row(data=[10**400] * Z)]}, "expected numbers"),
        ({"inputs": [one_row(data=[1e39] * Z)]}, "finite"),
        (
            b'{"inputs": [{"name": "z", "shape": [1, 16], "datatype": "FP32", "data": ['
            + b"NaN," * 15
            + b"Infinity]}]}",
            "finite",
        ),
        ({"inputs": [one_row(parameters=[])]}, "parameters: expected an object"),
        ({"inputs": [one_row(parameters={"binary_data_size": 64})]}, "0 left in the body"),
        ({"inputs": [one_row(parameters={"binary_data_size": "64"})]}, "64 bytes"),
        ({"inputs": [one_row()], "id": 7}, "id: expected a string"),
        ({"inputs": [one_row()], "parameters": 7}, "parameters: expected an object"),
        ({"inputs": [one_row()], "parameters": {"timeout": -1}}, "microseconds"),
        ({"inputs": [one_row()], "parameters": {"timeout": "1"}}, "microseconds"),
        ({"inputs": [one_row()], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [one_row()], "outputs": {}}, "outputs: expected a list"),
        ({"inputs": [one_row()], "outputs": [{"name": "pixels"}] * 2}, "each once"),
        (
            {
                "inputs": [one_row()],
                "outputs": [{"name": "pixels", "parameters": {"binary_data": 1}}],
            },
            "true or false",
        ),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_one_line(raw, body, says):
    assert_refused(infer(raw, body), 400, says)


def binary_request(sizes: int, blob: bytes) -> tuple[bytes, bytes]:
    one = {"name": "z", "shape": [1, Z], "datatype": "FP32"}
    text = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": sizes}}]}).encode()
    return text, text + blob


def test_binary_data_and_its_header_have_to_fit_each_other(raw):
    blob = np.full(Z, 0.5, "<f4").tobytes()
    text, body = binary_request(len(blob), blob)
    good = infer(raw, body, **{HEADER_LENGTH: str(len(text))})
    assert good.status_code == 200
    assert good.json() == infer(raw, {"inputs": [one_row()]}).json()
    for length in ("-1", "+5", "x", "", "1" * 40, "²", "1_0"):
        refused = raw.post(
            f"/v2/models/{PLAIN}/infer",
            content=body,
            headers={HEADER_LENGTH: length.encode("latin-1")},
        )
        assert_refused(refused, 400)
    for length in (0, 3, len(text) - 1, len(text) + 1, len(body), len(body) + 1):
        assert_refused(infer(raw, body, **{HEADER_LENGTH: str(length)}), 400)
    assert_refused(infer(raw, body), 400, "not JSON")
    for cut in (body[:-1], body + b"\0"):
        assert_refused(infer(raw, cut, **{HEADER_LENGTH: str(len(text))}), 400)
    text, body = binary_request(len(blob) - 4, blob[4:])
    assert_refused(infer(raw, body, **{HEADER_LENGTH: str(len(text))}), 400, "has 64 bytes")


def test_compressed_bodies_are_bounded_when_unpacked(raw):
    plain = json.dumps({"inputs": [one_row()]}).encode()
    packed = gzip.compress(plain)
    assert infer(raw, packed, content_encoding="GZIP").status_code == 200
    assert infer(raw, plain, content_encoding="identity").status_code == 200
    assert_refused(infer(raw, plain, content_encoding="br"), 415, "gzip")
    assert_refused(infer(raw, plain, content_encoding="gzip"), 400, "not gzip")
    assert_refused(infer(raw, zlib.compress(plain), content_encoding="gzip"), 400, "not gzip")
    assert_refused(infer(raw, packed[:-4], content_encoding="gzip"), 400, "cut off")
    assert_refused(infer(raw, packed + b"more", content_encoding="gzip"), 400, "goes on")
    bomb = gzip.compress(bytes(1 << 30), 9)
    assert_refused(infer(raw, bomb, content_encoding="gzip"), 413, "bytes")


def test_a_body_longer_than_any_request_is_refused_while_it_comes(raw):
    def in_pieces():
        for _ in range(2 * MOST_JSON // 2**16):
            yield bytes(2**16)

    refused = raw.post(f"/v2/models/{PLAIN}/infer", content=in_pieces())
    assert_refused(refused, 413, "the body has more than")
    long = b" " * MOST_JSON + json.dumps({"inputs": [one_row()]}).encode()
    assert_refused(infer(raw, long), 413, "send the tensors as binary data")


def test_a_million_empty_lists_cost_no_more_than_one(raw):
    body = b'{"inputs": [' + b"[]," * (MOST_JSON // 3 - 10) + b"[]]}"
    assert_refused(infer(raw, body), 400, "lists and objects")
    # As many as the largest request has when it is nested.
    rows = {"shape": [256, Z], "data": [[0.5] * Z] * 256}
    assert infer(raw, {"inputs": [one_row(**rows)]}).status_code == 200


def test_more_numbers_than_json_is_given_for_are_binary_data(drawn_repository):
    rows = MOST_JSON_NUMBERS // (SIZE * SIZE * 3) + 1
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_IMAGES": str(rows)}) as server,
        connect(server) as client,
    ):
        assert client.get_model_config(PLAIN)["max_batch_size"] == rows
        z = inputs(range(rows))
        as_json = [triton.InferRequestedOutput("pixels", binary_data=False)]
        with pytest.raises(InferenceServerException, match="ask for binary data") as caught:
            client.infer(PLAIN, z, outputs=as_json)
        assert caught.value.status() == "400"
        assert client.infer(PLAIN, z).as_numpy("pixels").shape == (rows, *PICTURE[1:])


def test_every_path_below_v2_speaks_of_errors_in_one_way(raw):
    assert_refused(raw.get("/v2/nope"), 404, "no such route")
    answer = raw.get(f"/v2/models/{PLAIN}/infer")
    assert_refused(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert_refused(raw.post("/v2/repository/index", content=b"{"), 400, "not JSON")
    assert_refused(raw.post("/v2/repository/index", content=b"[7]"), 400, "ready")
    assert_refused(raw.post("/v2/repository/index", json={"ready": 1}), 400, "ready")
    assert_refused(raw.post("/v2/repository/index", content=bytes(10_000)), 413)
    assert raw.get("/v2elsewhere").headers["content-type"] == "application/problem+json"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)
# Right as often as wrong, so that garbage gets past the first check.
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
def test_no_request_whatever_is_a_5xx(raw, model, request, blob, off):
    text = json.dumps(request).encode()
    headers = {} if off is None else {HEADER_LENGTH: str(max(len(text) + off, 0))}
    answer = raw.post(f"/v2/models/{model}/infer", content=text + blob, headers=headers)
    # A timeout of microseconds may be asked for, and is then rightly over.
    assert answer.status_code < 500 or answer.status_code == 504
    if answer.status_code != 200:
        assert answer.json()["error"]


@given(
    content=st.binary(max_size=80),
    length=st.none() | st.integers(0, 90).map(str),
    encoding=st.sampled_from(["", "gzip", "deflate", "br"]),
)
@settings(max_examples=100, deadline=None)
def test_no_bytes_whatever_are_a_5xx(raw, content, length, encoding):
    headers = {"content-encoding": encoding} | ({HEADER_LENGTH: length} if length else {})
    answer = raw.post(f"/v2/models/{PLAIN}/infer", content=content, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_the_log_holds_no_stack_trace_after_all_of_this(drawn_server):
    assert "Traceback" not in drawn_server.logged()
