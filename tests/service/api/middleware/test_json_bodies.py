"""JSON bodies are bounded before they are parsed, and processed without holding up other work."""

import asyncio
import itertools
import json
import sys
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.app import create_app
from service.api.middleware.json_bodies import JsonLimits, assert_bounded, parse
from service.api.problems import Problem
from service.runtime.scheduling.engine import Engine
from service.settings import Settings

documents = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\\n é日', max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\', max_size=4), inner)
    ),
    max_leaves=20,
)


def depth_of(document) -> int:
    match document:
        case list():
            return 1 + max(map(depth_of, document), default=0)
        case dict():
            return 1 + max(map(depth_of, document.values()), default=0)
        case _:
            return 0


@given(documents, st.booleans())
def test_measures_json_depth_without_parsing(document, ascii_only):
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    depth = depth_of(document)
    assert_bounded(text, JsonLimits(depth))
    if depth:
        with pytest.raises(Problem, match="nested"):
            assert_bounded(text, JsonLimits(depth - 1))


@given(st.binary(max_size=200))
def test_depth_of_arbitrary_bytes_never_fails(text):
    try:
        assert_bounded(text, JsonLimits(3))
    except Problem as problem:
        assert problem.status == 400  # noqa: PT017 - most texts raise nothing


def parts_of(document) -> tuple[int, int, int]:
    """Return the number of containers, of members, and of separators between values."""
    match document:
        case list():
            own = (1, 0, max(0, len(document) - 1))
            children = document
        case dict():
            own = (1, len(document), max(0, len(document) - 1))
            children = document.values()
        case _:
            return (0, 0, 0)
    return tuple(map(sum, zip(own, *map(parts_of, children), strict=True)))


@given(documents, st.booleans())
def test_counts_parts_without_parsing(document, ascii_only):
    # Longer than the limits, so that the parts are counted.
    text = json.dumps(document, ensure_ascii=ascii_only).encode() + b" " * 4000
    containers, members, values = parts_of(document)
    # Brackets in strings count as containers too.
    brackets = text.count(b"[") + text.count(b"{")
    assert_bounded(text, JsonLimits(100, brackets, members, values))
    smaller = {
        "arrays and objects": (containers, JsonLimits(100, brackets - 1)),
        "members": (members, JsonLimits(100, members=members - 1)),
        "values": (values, JsonLimits(100, values=values - 1)),
    }
    for name, (count, limits) in smaller.items():
        if count:
            with pytest.raises(Problem, match=f"up to .* {name}"):
                assert_bounded(text, limits)


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("unit", ["\\", '"', 'a\\"', "\n"])
def test_counts_texts_of_several_steps(unit, shift):
    # The ends of the steps fall into escape sequences.
    document = [[" " * shift + unit * 1_100_000], {"a": [1, 2]}]
    text = json.dumps(document).encode()
    assert_bounded(text, JsonLimits(3, escapes=5_000_000, members=1, values=2))
    with pytest.raises(Problem, match="nested"):
        assert_bounded(text, JsonLimits(2, escapes=5_000_000))
    with pytest.raises(Problem, match="escaped characters"):
        assert_bounded(text, JsonLimits(3, escapes=1_000_000))


NUMBERS = [0, -1, 2**70, 0.1, -1e300, 1e400, float("nan"), float("-inf"), 12345678901234567890.5]


def test_parses_large_numbers_as_the_standard_parser():
    text = json.dumps(NUMBERS * 5000).encode()
    assert repr(parse(text)) == repr(json.loads(text))
    with pytest.raises(ValueError, match="digits"):
        parse(b"[" + b"1," * 50_000 + b"9" * 5000 + b"]")


def test_other_threads_run_while_numbers_are_parsed():
    text = json.dumps([i / 7 for i in range(300_000)]).encode()
    ended = threading.Event()
    turns = itertools.count()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)

    def take_turns():
        while not ended.wait(0.0005):
            next(turns)

    other = threading.Thread(target=take_turns)
    other.start()
    before = next(turns)
    try:
        parse(text)
        during = next(turns) - before
    finally:
        ended.set()
        other.join()
        sys.setswitchinterval(interval)
    # The standard parser, called once, would give it no turn at all.
    assert during > 5


NUMBERS_TEXT = b",".join(b"0.1234567890123%d" % (i % 10) for i in range(900_000))
INFER_TEXT = b'{"inputs":[{"name":"z","datatype":"FP32","shape":[1,16],"data":['
SLOW_BODIES = {
    "/v1/generate": b'{"model":"painted","z":[[' + NUMBERS_TEXT + b"]]}",
    "/v1/mix-styles": b'{"rows":[' + NUMBERS_TEXT + b"]}",
    "/v1/jobs": b'{"classes":[' + NUMBERS_TEXT + b"]}",
    "/v1/upscale": b'{"image":[' + NUMBERS_TEXT + b"]}",
    "/v2/models/painted/infer": INFER_TEXT + b"0," * 2_000_000 + b"0]}]}",
}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("path", SLOW_BODIES)
async def test_event_loop_goes_on_while_a_large_body_is_parsed(drawn_repository, path):
    engine = Engine(drawn_repository, provider="cpu", queue_pixels=2**20)
    engine.start()
    transport = httpx.ASGITransport(create_app(engine, Settings(models=drawn_repository)))
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        request = client.post(path, content=SLOW_BODIES[path], headers=headers)
        posted = asyncio.ensure_future(request)
        turns = 0
        while not posted.done():
            await asyncio.sleep(0.001)
            turns += 1
    assert 400 <= posted.result().status_code < 500
    # Parsing takes half a second of CPU time. In the event loop, it would be a single turn, with a
    # few before and after it.
    assert turns > 20
    assert engine.drain(30)
