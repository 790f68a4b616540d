"""Triton's unmodified gRPC client against the real service, and calls that it never makes."""

import io
import json
import os
import queue
import re
import signal
import subprocess

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.api_keys import add_key
from service.runtime.latent import seeds as latents
from tests.support.drawn_models import SIZE, Z
from tests.support.failing_models import CLASSES, write_failing
from tests.support.failing_models import SIZE as FAILING_SIZE
from tests.support.failing_models import Z as FAILING_Z
from tests.support.grpc_servers import serving_grpc
from tests.support.servers import ganymede, wait_until, workers_of

PLAIN, BY_CLASS, CUT = "painted", "painted-classes", "cut"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def served(drawn_repository):
    with serving_grpc(drawn_repository) as (server, address):
        yield server, address


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served[1]) as client:
        yield client


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served[1]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def raw(served):
    with served[0].client() as client:
        yield client


def tensor(name, datatype, array) -> triton.InferInput:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def inputs(seeds, classes=None, truncation=None) -> list:
    tensors = [tensor("z", "FP32", latents.draw(seeds, Z, "normal"))]
    if classes is not None:
        tensors.append(tensor("class_index", "INT64", np.asarray(classes, np.int64)))
    if truncation is not None:
        tensors.append(tensor("truncation", "FP32", np.full(len(seeds), truncation, np.float32)))
    return tensors


def contents_request(z, **more) -> pb.ModelInferRequest:
    """A request with its numbers in `contents`."""
    request = pb.ModelInferRequest(model_name=PLAIN, **more)
    entry = request.inputs.add(name="z", datatype="FP32", shape=z.shape)
    entry.contents.fp32_contents.extend(z.ravel().tolist())
    return request


def generated(raw, **body) -> np.ndarray:
    response = raw.post("/v1/generate", json={"format": "npy"} | body)
    assert response.status_code == 200
    return np.load(io.BytesIO(response.content))


def failure(call, *arguments, **options) -> tuple[grpc.StatusCode, str, dict]:
    """The status, the details and the trailing metadata of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    error = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata() or ())


def kind(metadata) -> str:
    return metadata["problem-type"].removeprefix("urn:ganymede:problem:")


def test_server_metadata_and_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "ganymede"
    assert client.is_model_ready(CUT, "1")
    assert client.is_model_ready(f"{PLAIN}:mapping")
    for name, version in [(CUT, "9"), ("nope", ""), (f"{CUT}:mapping", "")]:
        assert not client.is_model_ready(name, version)


def test_graphs_are_described_as_over_http(client, raw):
    index = client.get_model_repository_index(as_json=True)["models"]
    assert index == [
        {name: value for name, value in graph.items() if value}
        for graph in raw.post("/v2/repository/index").json()
    ]
    for name in (CUT, BY_CLASS, f"{PLAIN}:synthesis"):
        theirs = raw.get(f"/v2/models/{name}").json()
        own = client.get_model_metadata(name)
        assert (own.name, list(own.versions)) == (name, theirs["versions"])
        for side in ("inputs", "outputs"):
            assert [(one.name, one.datatype, list(one.shape)) for one in getattr(own, side)] == [
                (one["name"], one["datatype"], one["shape"]) for one in theirs[side]
            ]
        config = raw.get(f"/v2/models/{name}/config").json()
        own = client.get_model_config(name, as_json=True)["config"]
        assert own["max_batch_size"] == config["max_batch_size"]
        assert [list(map(int, one["dims"])) if "dims" in one else [] for one in own["input"]] == [
            one["dims"] for one in config["input"]
        ]
        assert own["input"][0]["data_type"] == config["input"][0]["data_type"]


def test_infer_equals_generate(client, raw):
    seeds, classes = [3, 1, 4, 1, 5], [2, 1, 0, 2, 1]
    response = client.infer(BY_CLASS, inputs(seeds, classes, 0.6), request_id="request-7")
    expected = generated(raw, model=BY_CLASS, seeds=seeds, truncation=0.6, **{"class": classes})
    np.testing.assert_array_equal(response.as_numpy("pixels"), expected)
    message = response.get_response()
    assert (message.id, message.model_name, message.model_version) == ("request-7", BY_CLASS, "1")
    assert len(message.raw_output_contents) == 1


def test_roles_of_a_model_are_graphs(client):
    w = client.infer(f"{PLAIN}:mapping", inputs([1, 2])).as_numpy("w")
    pixels = client.infer(f"{PLAIN}:synthesis", [tensor("w", "FP32", w)]).as_numpy("pixels")
    np.testing.assert_array_equal(pixels, client.infer(PLAIN, inputs([1, 2])).as_numpy("pixels"))


def test_numbers_in_contents_are_answered_in_contents(stub, raw):
    response = stub.ModelInfer(contents_request(latents.draw([5, 6], Z, "normal")))
    assert not response.raw_output_contents
    pixels = np.array(response.outputs[0].contents.uint_contents, np.uint8)
    np.testing.assert_array_equal(
        pixels.reshape(response.outputs[0].shape), generated(raw, model=PLAIN, seeds=[5, 6])
    )


def test_parameters_choose_how_outputs_are_returned(stub):
    z = latents.draw([5], Z, "normal")
    request = contents_request(z)
    request.parameters["binary_data_output"].bool_param = True
    assert len(stub.ModelInfer(request).raw_output_contents[0]) == SIZE * SIZE * 3
    request = contents_request(z)
    request.outputs.add(name="pixels").parameters["binary_data"].bool_param = True
    assert stub.ModelInfer(request).raw_output_contents


def with_contents(**fields) -> pb.ModelInferRequest:
    request = contents_request(np.zeros((1, Z), np.float32))
    request.inputs[0].ClearField("contents")
    for name, numbers in fields.items():
        getattr(request.inputs[0].contents, name).extend(numbers)
    return request


def changed(change) -> pb.ModelInferRequest:
    request = contents_request(np.zeros((1, Z), np.float32))
    change(request)
    return request


def both(request) -> None:
    request.raw_input_contents.append(bytes(4 * Z))


def wrong_size(request) -> None:
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(bytes(4 * Z - 1))


def too_many_raw(request) -> None:
    request.raw_input_contents.extend([b"", b""])


def shared_memory(request) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def priority(request) -> None:
    request.parameters["priority"].int64_param = 4


def mixed(request) -> None:
    request.outputs.add(name="pixels").parameters["binary_data"].string_param = "yes"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (with_contents(), "inputs[0].contents"),
        (with_contents(fp32_contents=[0.0] * (Z - 1)), "inputs[0].contents"),
        (with_contents(fp64_contents=[0.0] * Z), "inputs[0].contents"),
        (with_contents(fp32_contents=[float("nan")] * Z), "z"),
        (changed(both), "inputs[0].contents"),
        (changed(wrong_size), "raw_input_contents[0]"),
        (changed(too_many_raw), "raw_input_contents"),
        (changed(shared_memory), "inputs[0].parameters.shared_memory_region"),
        (changed(priority), "parameters.priority"),
        (changed(mixed), "outputs[0].parameters.binary_data"),
        (pb.ModelInferRequest(model_name=PLAIN), "inputs"),
    ],
)
def test_invalid_requests_name_the_field(stub, request_, field):
    code, details, metadata = failure(stub.ModelInfer, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}: ")
    assert json.loads(metadata["problem-bin"])["errors"][0]["field"] == field


def test_unknown_graph_is_not_found(client, stub):
    with pytest.raises(InferenceServerException, match="available") as caught:
        client.infer("nope", inputs([1]))
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    code, _, metadata = failure(stub.ModelMetadata, pb.ModelMetadataRequest(name="nope"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert kind(metadata) == "model-not-found"


def test_unknown_method_is_unimplemented(stub):
    code, *_ = failure(stub.TraceSetting, pb.TraceSettingRequest())
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_data_that_is_no_message_is_refused(served):
    with grpc.insecure_channel(served[1]) as channel:
        code, _, metadata = failure(channel.unary_unary(INFER), b"\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert kind(metadata) == "invalid-message"


def test_message_beyond_the_limits_is_refused(served, stub):
    request = contents_request(np.zeros((1, Z), np.float32), id="x" * 200_000)
    code, _, metadata = failure(stub.ModelInfer, request)
    assert (code, kind(metadata)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "body-too-large")
    with grpc.insecure_channel(served[1]) as channel:
        code, *_ = failure(channel.unary_unary(INFER), bytes(17 * 2**20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_timeout_parameter_is_a_deadline(client, stub):
    request = contents_request(np.zeros((1, Z), np.float32))
    request.parameters["timeout"].int64_param = 1
    code, _, metadata = failure(stub.ModelInfer, request)
    assert (code, kind(metadata)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline-exceeded")
    assert client.infer(PLAIN, inputs([1]), timeout=60_000_000, priority=3).as_numpy("pixels").any()


def test_metadata_are_headers(stub):
    request = contents_request(np.zeros((1, Z), np.float32))
    _, call = stub.ModelInfer.with_call(request, metadata=[("x-request-id", "from-the-client")])
    assert dict(call.trailing_metadata())["x-request-id"] == "from-the-client"
    code, _, metadata = failure(stub.ModelInfer, request, metadata=[("x-priority", "urgent")])
    assert (code, kind(metadata)) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-header")


def test_stream_answers_in_order_and_survives_errors(served):
    results = queue.Queue()
    with triton.InferenceServerClient(served[1]) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        for number in range(40):
            client.async_stream_infer(
                "nope" if number == 20 else PLAIN, inputs([number]), request_id=str(number)
            )
        answers = [results.get(timeout=60) for _ in range(40)]
        client.stop_stream()
    assert [error is not None for _, error in answers] == [number == 20 for number in range(40)]
    ids = [result.get_response().id for result, _ in answers if result is not None]
    assert ids == [str(number) for number in range(40) if number != 20]
    assert "no model 'nope'" in str(answers[20][1])


def test_error_of_a_stream_has_the_id_of_its_request(stub):
    request = contents_request(np.zeros((2, Z + 1), np.float32), id="wrong")
    (response,) = stub.ModelStreamInfer(iter([request]))
    assert "shape" in response.error_message
    assert response.infer_response.id == "wrong"


def test_calls_are_logged_and_counted_as_requests(served, stub, raw):
    stub.ServerLive(pb.ServerLiveRequest(), metadata=[("x-request-id", "a-logged-call")])
    assert f'route="{INFER}",status="200"' in raw.get("/metrics").text
    wait_until(lambda: "a-logged-call" in served[0].logged())
    (line,) = [line for line in served[0].logged().splitlines() if "a-logged-call" in line]
    logged = json.loads(line)
    assert logged["route"] == "/inference.GRPCInferenceService/ServerLive"
    assert logged["status"] == 200


def test_methods_are_served_over_grpc_only(raw):
    response = raw.post(INFER, content=b"", headers={"content-type": "application/grpc"})
    assert response.status_code == 404
    assert response.json()["type"].endswith("route-not-found")


def health(channel, service="") -> int:
    """The status that gRPC's health service reports: 1 for SERVING."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    return check(request)[1]


def test_keys_rate_limits_and_priorities_are_those_of_http(drawn_repository, tmp_path):
    file = tmp_path / "keys.json"
    plain = add_key(file, "plain", pixels_per_minute=10 * SIZE * SIZE)
    patient = add_key(file, "patient", max_priority="low")
    request = contents_request(np.zeros((6, Z), np.float32))
    with (
        serving_grpc(drawn_repository, "--keys", str(file)) as (_, address),
        grpc.insecure_channel(address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        # Probes of orchestrators send no key.
        assert health(channel) == health(channel, "inference.GRPCInferenceService") == 1
        assert failure(health, channel, "other")[0] is grpc.StatusCode.NOT_FOUND
        for metadata, expected in [
            ((), "key-needed"),
            ([("authorization", "Bearer x")], "unknown-key"),
        ]:
            code, _, trailing = failure(stub.ServerLive, pb.ServerLiveRequest(), metadata=metadata)
            assert (code, kind(trailing)) == (grpc.StatusCode.UNAUTHENTICATED, expected)
            answers = stub.ModelStreamInfer(iter([request]), metadata=metadata)
            assert failure(list, answers)[0] is grpc.StatusCode.UNAUTHENTICATED

        key = [("authorization", f"Bearer {plain}")]
        _, call = stub.ModelInfer.with_call(request, metadata=key)
        assert int(dict(call.trailing_metadata())["ratelimit-remaining"]) < 5 * SIZE * SIZE
        code, _, trailing = failure(stub.ModelInfer, request, metadata=key)
        assert (code, kind(trailing)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate-limited")
        assert int(trailing["retry-after"]) > 0

        key = [("authorization", f"Bearer {patient}")]
        assert stub.ModelInfer(request, metadata=key).outputs
        request.parameters["priority"].int64_param = 2
        code, details, trailing = failure(stub.ModelInfer, request, metadata=key)
        assert (code, kind(trailing)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "priority-not-allowed",
        )
        assert "normal priority; the highest that this caller may ask for is low" in details


def failing_request(class_: str, seed: int = 0, **parameters) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    z = request.inputs.add(name="z", datatype="FP32", shape=[1, FAILING_Z])
    z.contents.fp32_contents.extend([float(seed)] * FAILING_Z)
    index = request.inputs.add(name="class_index", datatype="INT64", shape=[1])
    index.contents.int64_contents.append(CLASSES.index(class_))
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def answers(http: httpx.Client, status: int) -> int:
    """Return how many calls of ModelInfer ended with `status`, from the metrics."""
    found = re.search(rf'route="{INFER}",status="{status}"}} (\d+)', http.get("/metrics").text)
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_cancelled_calls_leave_the_queue_and_accepted_ones_survive_a_stop(tmp_path):
    # Longer than the timeout below, also on a fast machine.
    write_failing(tmp_path / "models" / "m" / "1", slow_iterations=3_000_000)
    environment = {"GANYMEDE_CONCURRENT_BATCHES": "1", "GANYMEDE_MAX_ROWS": "1"}
    with (
        serving_grpc(tmp_path / "models", env=environment) as (server, address),
        grpc.insecure_channel(address) as channel,
        server.client() as http,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def queued_pixels() -> int:
            (line,) = [
                line
                for line in http.get("/metrics").text.splitlines()
                if line.startswith("ganymede_queue_pixels ")
            ]
            return round(float(line.split()[1]) / FAILING_SIZE**2)

        running = stub.ModelInfer.future(failing_request("slow"))
        wait_until(lambda: queued_pixels() == 1)
        waiting = [stub.ModelInfer.future(failing_request("slow", i)) for i in range(3)]
        # A call that is cancelled before it arrives leaves no trace.
        wait_until(lambda: queued_pixels() == 4)
        hasty = stub.ModelInfer.future(failing_request("slow", 9), timeout=0.5)
        assert hasty.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for each in waiting:
            each.cancel()
        wait_until(lambda: queued_pixels() <= 1)
        # The hasty call counts as 504, or as 499 where the server sees first that the client gave
        # up; on a busy machine, it may end before it arrives.
        wait_until(lambda: answers(http, 499) >= 3)
        assert answers(http, 499) + answers(http, 504) <= 4

        running.result()
        wait_until(lambda: queued_pixels() == 0)
        accepted = stub.ModelInfer.future(failing_request("slow"))
        wait_until(lambda: queued_pixels() == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.logged())
        code, _, metadata = failure(stub.ModelInfer, failing_request("fine"))
        assert (code, kind(metadata)) == (grpc.StatusCode.UNAVAILABLE, "not-ready")
        assert health(channel) == 2
        assert len(accepted.result().outputs[0].contents.uint_contents) == FAILING_SIZE**2
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_urgent_calls_pass_waiting_ones(tmp_path):
    write_failing(tmp_path / "models" / "m" / "1", slow_iterations=100_000)
    environment = {"GANYMEDE_CONCURRENT_BATCHES": "1", "GANYMEDE_MAX_ROWS": "1"}
    with (
        serving_grpc(tmp_path / "models", env=environment) as (server, address),
        grpc.insecure_channel(address) as channel,
        server.client() as http,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        order = []
        calls = []

        def send(number: int, priority: int) -> None:
            call = stub.ModelInfer.future(failing_request("slow", number, priority=priority))
            call.add_done_callback(lambda _: order.append(priority))
            calls.append(call)

        # One runs, and the others wait by the time that the urgent one arrives.
        for number in range(12):
            send(number, 3)
        metric = f"ganymede_queue_pixels {12 * FAILING_SIZE**2}.0"
        wait_until(lambda: metric in http.get("/metrics").text or order)
        send(12, 1)
        for call in calls:
            call.result()
        wait_until(lambda: len(order) == 13)
        assert order.index(1) < 12
        text = http.get("/metrics").text
        for name, count in (("high", 1), ("low", 12)):
            assert f'ganymede_priority_queue_seconds_count{{priority="{name}"}} {count}.0' in text


@pytest.mark.slow
def test_all_processes_serve_one_port(drawn_repository):
    environment = {"GANYMEDE_PROCESSES": "2"}
    with serving_grpc(drawn_repository, env=environment) as (server, address):
        pids = {worker.pid for worker in workers_of(server)}
        port = int(address.rpartition(":")[2])

        def listening() -> set[int]:
            return {
                worker.pid
                for worker in workers_of(server)
                for each in worker.net_connections()
                if each.laddr.port == port and each.status == "LISTEN"
            }

        wait_until(lambda: listening() == pids)
        # A channel with an option of its own opens a connection of its own.
        for number in range(16):
            with grpc.insecure_channel(address, [("grpc.dummy", number)]) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                assert stub.ServerReady(pb.ServerReadyRequest(), wait_for_ready=True).ready


def test_ports_must_be_free_and_different(drawn_repository, served):
    port = served[1].rpartition(":")[2]
    for other, message in [("4449", f"port {port}: is in use"), (port, "is the port of HTTP")]:
        command = ganymede("serve", "--models", drawn_repository, "--grpc-port", port)
        ended = subprocess.run(
            [*command, "--port", other], capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode != 0
        assert message in ended.stderr or "in use" in ended.stderr
        assert "Traceback" not in ended.stderr


KSERVE_CLIENT = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main(address, size):
    client = InferenceGRPCClient(address)
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("painted")
    z = np.random.RandomState(1).randn(1, size).astype(np.float32)
    for binary in (True, False):
        tensor = InferInput("z", list(z.shape), "FP32")
        tensor.set_data_from_numpy(z, binary_data=binary)
        request = InferRequest("painted", [tensor], request_id="k")
        response = await client.infer(request, timeout=60)
        assert response.id == "k"
        print(response.outputs[0].as_numpy().astype(np.uint8).tobytes().hex())
    await client.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
def test_client_of_kserve(served, raw):
    """$GANYMEDE_KSERVE_PYTHON is the interpreter of an environment with `pip install kserve`."""
    if (python := os.environ.get("GANYMEDE_KSERVE_PYTHON")) is None:
        pytest.skip("kserve requires protobuf < 7, so it needs an environment of its own")
    ended = subprocess.run(
        [python, "-c", KSERVE_CLIENT, served[1], str(Z)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [generated(raw, model=PLAIN, seeds=[1]).tobytes().hex()] * 2
