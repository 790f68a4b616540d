"""`POST /v1/text`."""

import asyncio
import concurrent.futures
import hashlib
import json

import httpx
import pytest

from ganymede_client.wire.events import parse_events
from service.api.routes.text.texts import text_events
from service.api_keys import add_key
from service.runtime.generation import execute
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from service.runtime.text.records import model_vocabulary
from service.runtime.text.requests import text_sources
from tests.support.drawn_models import VOCABULARY
from tests.support.output_models import AUDIO, MAX_LENGTH, TEXT_MODEL
from tests.support.servers import serving

SEEDS = list(range(20, 32))


class BusyExecution:
    """Runs a plan in another thread, and blocks the event loop until it has ended."""

    async def execute(self, model, plan, finish, **_):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: finish(execute(plan, model.run))).result()


def post(client, **body):
    return client.post("/v1/text", json={"model": TEXT_MODEL, **body})


def generated(client, **body):
    response = post(client, **body)
    assert response.status_code == 200, response.text
    return response.json()["texts"]


def streamed(client, **body):
    response = post(client, **body, format="events")
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.splitlines()
    return [(event.event, json.loads(event.data)) for event in parse_events(lines)]


@pytest.fixture(scope="module")
def expected(client):
    """The text of each seed, generated alone."""
    return {seed: generated(client, seed=seed)[0]["text"] for seed in SEEDS}


def test_text_states_what_reproduces_it(client):
    (text,) = generated(client, seed=7)
    assert text["seed"] == 7
    assert text["temperature"] == 1
    assert text["max_length"] == MAX_LENGTH
    assert text["tokens"] == len(text["text"])
    assert (text["finish_reason"] == "length") == (text["tokens"] == MAX_LENGTH)


def test_texts_of_the_seeds_differ(expected):
    assert len(set(expected.values())) > len(SEEDS) // 2


def test_text_of_a_seed_is_the_same_in_a_batch(client, expected):
    together = generated(client, seed=SEEDS[0], n=len(SEEDS))
    assert [text["text"] for text in together] == list(expected.values())
    listed = generated(client, seeds=SEEDS[::-1])
    assert [text["text"] for text in listed] == list(expected.values())[::-1]


def test_text_of_a_seed_is_the_same_for_simultaneous_requests(client, expected):
    with concurrent.futures.ThreadPoolExecutor(len(SEEDS)) as pool:
        answers = pool.map(lambda seed: generated(client, seed=seed)[0]["text"], SEEDS)
    assert list(answers) == list(expected.values())


def test_steps_of_simultaneous_requests_share_batches(client):
    def batches_and_rows():
        lines = client.get("/metrics").text.splitlines()
        found = {
            line.split("{")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("ganymede_batch_rows_") and f'model="{TEXT_MODEL}"' in line
        }
        return found["ganymede_batch_rows_count"], found["ganymede_batch_rows_sum"]

    before = batches_and_rows()
    with concurrent.futures.ThreadPoolExecutor(len(SEEDS)) as pool:
        list(pool.map(lambda seed: generated(client, seed=seed), SEEDS * 4))
    batches, rows = (after - first for first, after in zip(before, batches_and_rows(), strict=True))
    assert rows > batches


def test_streamed_text_is_the_same(client, expected):
    events = streamed(client, seed=SEEDS[0], n=len(SEEDS))
    pieces = dict.fromkeys(range(len(SEEDS)), "")
    for kind, data in events:
        if kind == "token":
            pieces[data["index"]] += data["text"]
    assert list(pieces.values()) == list(expected.values())
    complete = {data["index"]: data["text"] for kind, data in events if kind == "text"}
    assert complete == pieces
    assert events[-1][0] == "end"
    assert events[-1][1]["texts"] == len(SEEDS)


def test_stream_is_complete_if_the_event_loop_is_busy(output_repository):
    folder = output_repository / TEXT_MODEL / "1"
    model = Model(folder, Provider.CPU, plan_for(Provider.CPU))
    vocabulary = model_vocabulary(model)
    sources = text_sources(model.manifest, vocabulary, max_texts=3, n=3, seed=1)

    async def received():
        events = text_events(None, BusyExecution(), model, vocabulary, sources)
        return b"".join([event async for event in events]).decode()

    kinds = [event.event for event in parse_events(asyncio.run(received()).splitlines())]
    assert kinds.count("text") == 3
    assert kinds.count("token") > 3
    assert kinds[-1] == "end"


def test_stream_begins_before_the_text_is_complete(client):
    kinds = [kind for kind, _ in streamed(client, seed=1, n=3)]
    assert kinds.index("token") < kinds.index("text") < kinds.index("end")
    assert kinds.count("text") == 3


def test_plain_text(client, expected):
    response = post(client, seed=SEEDS[0], format="text")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == expected[SEEDS[0]]
    assert response.headers["x-ganymede-seed"] == str(SEEDS[0])
    several = client.post(
        "/v1/text",
        json={"model": TEXT_MODEL, "seed": SEEDS[0], "n": 3},
        headers={"accept": "text/plain"},
    )
    assert several.text.split("\n")[:3] == list(expected.values())[:3]


def test_accept_chooses_the_stream(client):
    response = client.post(
        "/v1/text", json={"model": TEXT_MODEL}, headers={"accept": "text/event-stream"}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (
        client.post(
            "/v1/text", json={"model": TEXT_MODEL}, headers={"accept": "image/png"}
        ).status_code
        == 406
    )


def test_shorter_text_is_the_beginning(client, expected):
    seed = max(expected, key=lambda each: len(expected[each]))
    (text,) = generated(client, seed=seed, max_length=2)
    assert text["text"] == expected[seed][:2]
    assert text["finish_reason"] == "length"


def test_temperature_0_does_not_depend_on_the_seed(client):
    texts = {text["text"] for text in generated(client, seed=1, n=5, temperature=0)}
    assert len(texts) == 1


def test_prefix_begins_the_text(client):
    (text,) = generated(client, seed=3, prefix="ab")
    assert text["prefix"] == "ab"
    assert text["text"].startswith("ab")
    assert len(text["text"]) == 2 + text["tokens"]


def test_seeds_are_random_by_default(client):
    assert generated(client)[0]["seed"] != generated(client)[0]["seed"]


def test_golden_texts_are_those_of_the_service(client, output_repository):
    manifest = read_manifest(output_repository / TEXT_MODEL / "1")
    golden = {each.seed: each.sha256 for each in manifest.golden}
    assert golden
    texts = generated(client, seeds=list(golden))
    assert [hashlib.sha256(each["text"].encode()).hexdigest() for each in texts] == list(
        golden.values()
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": MAX_LENGTH + 1}, "max_length"),
        ({"prefix": "é"}, "prefix"),
        ({"prefix": "\ud83d\ude00"}, "prefix"),
        ({"prefix": "\u0000"}, "prefix"),
        ({"prefix": "a" * (MAX_LENGTH + 1)}, "prefix"),
        ({"prefix": "a" * 20_000}, "prefix"),
        ({"n": 0}, "n"),
        ({"n": 100_000}, "n"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 2], "n": 3}, "n"),
        ({"seeds": [1], "seed": 1}, "seeds"),
        ({"seed": 2**32}, "seed"),
        ({"seed": 2**32 - 1, "n": 2}, "seed"),
        ({"model": AUDIO}, "model"),
        ({"format": "xml"}, "format"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_invalid_fields_are_named(client, body, field):
    # Escaped, because a lone surrogate cannot be encoded.
    response = client.post(
        "/v1/text",
        content=json.dumps({"model": TEXT_MODEL, **body}),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"].startswith(field)
    # A stream is refused in the same way.
    if "format" not in body:
        streamed = client.post(
            "/v1/text",
            content=json.dumps({"model": TEXT_MODEL, **body, "format": "events"}),
            headers={"content-type": "application/json"},
        )
        assert streamed.status_code == 422


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 100])
def test_extreme_temperatures_give_texts(client, temperature):
    assert generated(client, seed=1, temperature=temperature)


def test_lone_surrogate_in_a_prefix_is_refused(client):
    response = client.post(
        "/v1/text",
        content=b'{"model": "%s", "prefix": "\\ud800"}' % TEXT_MODEL.encode(),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 422


def test_rate_limit_refuses_before_the_text_begins(output_repository, tmp_path):
    """The cost of all tokens is reserved, and what shorter texts do not use is returned."""
    per_text = MAX_LENGTH * len(VOCABULARY)
    keys = tmp_path / "keys.json"
    key = add_key(keys, "one", pixels_per_minute=4 * per_text)
    environment = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with (
        serving(output_repository, "--keys", str(keys), env=environment) as server,
        server.client(headers={"authorization": f"Bearer {key}"}) as limited,
    ):
        assert post(limited, n=5).status_code == 422
        assert post(limited, n=5, format="events").status_code == 422
        assert post(limited, n=4, prefix="a").status_code == 422
        response = post(limited, n=4, seed=1, max_length=1)
        used = 4 * per_text - int(post(limited, n=5).headers["ratelimit-remaining"])
        assert response.status_code == 200
        # The bucket refills meanwhile.
        assert used <= 4 * len(VOCABULARY)
        assert post(limited, n=3, seed=1).status_code == 200
        refused = post(limited, n=4, seed=1, format="events")
        assert refused.status_code == 429
        assert "retry-after" in refused.headers


def test_passed_deadline_is_a_504(client):
    response = client.post(
        "/v1/text",
        json={"model": TEXT_MODEL, "n": 200},
        headers={"x-deadline-ms": "1"},
    )
    assert response.status_code == 504


def test_client_that_leaves_ends_the_stream(client):
    with client.stream(
        "POST", "/v1/text", json={"model": TEXT_MODEL, "n": 50, "format": "events"}
    ) as response:
        next(response.iter_raw())
    # The service still responds.
    assert generated(httpx.Client(base_url=client.base_url), seed=1)
