import gc
import threading
import time
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

from service.runtime.models.parts.graphs import MAPPING, SYNTHESIS
from service.runtime.onnx.execution_plans import PlanOptions
from service.runtime.onnx.sessions import ExecutionPlan
from service.runtime.scheduling.engine import Engine, EngineState, NotReady
from service.runtime.scheduling.errors import JobTooLarge, QueueFull
from tests.support.drawn_models import SIZE
from tests.support.tiny_recipes import TINY


def make_engine(models, **options):
    return Engine(models, **{"provider": "cpu", "queue_pixels": 10**6} | options)


@pytest.fixture
def engine(repository):
    engine = make_engine(repository)
    engine.start()
    yield engine
    engine.drain(timeout=10)


@contextmanager
def permit(engine):
    engine.acquire_permit()
    try:
        yield
    finally:
        engine.release_permit()


def generate(engine, model, seeds):
    """Wait for a job like a request, including the encoding."""
    job = engine.submit(model, model.feeds(seeds))
    pixels = job.future.result(10)["pixels"]
    return engine.encode(job, lambda _: pixels).result(10)


def test_generates_the_images_of_the_model(engine):
    model = engine.catalog.get("gan-mnist")
    seeds = list(range(50))
    assert (generate(engine, model, seeds) == model.generate(seeds)).all()


def test_mapping_and_synthesis_equal_the_generator(drawn_repository):
    engine = make_engine(drawn_repository)
    engine.start()
    model = engine.catalog.get("painted-classes")
    seeds, classes, truncations = [3, 4, 5] * 4, [0, 1, 2] * 4, [0.1, 0.5, 1.0] * 4
    feeds = model.feeds(seeds, classes, truncations)
    single, mapped = engine.submit(model, feeds), engine.submit(model, feeds, role=MAPPING)
    w = mapped.future.result(10)["w"]
    assert (w == model.styles(seeds, classes, truncations)).all()
    synthesized = engine.submit(model, {"w": w}, role=SYNTHESIS)
    pixels = synthesized.future.result(10)["pixels"]
    assert (pixels == single.future.result(10)["pixels"]).all()
    assert (pixels == model.generate(seeds, classes, truncations)).all()
    for job in (single, mapped, synthesized):
        engine.abandon(job)
    assert engine.drain(timeout=10)


def test_queue_limit_counts_image_pixels(drawn_repository):
    engine = make_engine(drawn_repository, queue_pixels=10 * SIZE * SIZE)
    engine.start()
    model = engine.catalog.get("painted")
    feeds = model.feeds(range(11))
    with pytest.raises(JobTooLarge):
        engine.submit(model, feeds)
    mapped = engine.submit(model, feeds, role=MAPPING)
    with pytest.raises(JobTooLarge):
        engine.submit(model, {"w": mapped.future.result(10)["w"]}, role=SYNTHESIS)
    engine.abandon(mapped)
    assert engine.drain(timeout=10)


def test_refuses_jobs_before_start_and_after_drain(repository):
    engine = make_engine(repository)
    assert engine.state is EngineState.STARTING
    engine.start()
    assert engine.state is EngineState.READY
    model = engine.catalog.get("gan-mnist")
    accepted = engine.submit(model, model.feeds(range(200)))
    pixels = accepted.future.result(10)["pixels"]
    encoding = engine.encode(accepted, lambda _: len(pixels))
    assert engine.drain(timeout=10)
    assert encoding.result(0) == 200
    with pytest.raises(NotReady, match="stopped"):
        engine.submit(model, model.feeds([1]))


def test_queue_limit_includes_unencoded_outputs(repository):
    engine = make_engine(repository, queue_pixels=2 * 28 * 28)
    engine.start()
    model = engine.catalog.get("gan-mnist")
    with pytest.raises(JobTooLarge):
        engine.submit(model, model.feeds([1, 2, 3]))
    job = engine.submit(model, model.feeds([1, 2]))
    job.future.result(10)
    encoded = threading.Event()
    encoding = engine.encode(job, lambda _: encoded.wait(10))
    with pytest.raises(QueueFull):
        engine.submit(model, model.feeds([3]))
    encoded.set()
    assert encoding.result(10)
    assert len(generate(engine, model, [3])) == 1
    assert engine.drain(timeout=10)


def test_short_batch_runs_and_is_encoded_in_the_calling_thread(engine):
    model = engine.catalog.get("gan-mnist")
    threads = set()

    def encode(outputs):
        threads.add(threading.get_ident())
        return outputs["pixels"]

    def encoded(job):
        return engine.encode(job, encode)

    assert not engine.run_short_batch()
    end = time.monotonic() + 60
    while True:
        jobs = [engine.submit(model, model.feeds([seed]), wake=False) for seed in range(8)]
        encoding = [encoded(job) for job in jobs]
        # The first batches, and batches on a busy machine, are left to the workers.
        ran_here = engine.run_short_batch()
        engine.wake()
        images = [each.result(60)[0] for each in encoding]
        assert (np.stack(images) == model.generate(range(8))).all()
        if ran_here:
            break
        assert time.monotonic() < end
    assert threading.get_ident() in threads


def test_long_encoding_of_a_small_image_never_runs_in_the_calling_thread(engine):
    model = engine.catalog.get("gan-mnist")
    end = time.monotonic() + 60
    while True:
        job = engine.submit(model, model.feeds([1]), wake=False)
        encoding = engine.encode(job, lambda _: threading.current_thread().name, long=True)
        ran_here = engine.run_short_batch()
        engine.wake()
        assert encoding.result(60).startswith("ganymede-encoder")
        if ran_here:
            break
        assert time.monotonic() < end


def test_error_of_encoding_in_a_batch_affects_its_job_only(engine):
    model = engine.catalog.get("gan-mnist")

    def fail(_):
        raise ValueError("not encoded")

    works = [lambda _: 1, fail, lambda _: 2]
    jobs = [engine.submit(model, model.feeds([seed]), wake=False) for seed in range(3)]
    futures = [engine.encode(job, work) for job, work in zip(jobs, works, strict=True)]
    engine.wake()
    with pytest.raises(ValueError, match="not encoded"):
        futures[1].result(60)
    assert (futures[0].result(60), futures[2].result(60)) == (1, 2)
    assert engine.drain(timeout=60)


def test_encoded_job_is_freed_without_garbage_collection(engine):
    model = engine.catalog.get("gan-mnist")
    gc.disable()
    try:
        job = engine.submit(model, model.feeds([1]))
        engine.encode(job, lambda outputs: len(outputs["pixels"])).result(10)
        reference = weakref.ref(job)
        del job
        end = time.monotonic() + 5
        while reference() is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert reference() is None
    finally:
        gc.enable()


def test_abandoned_job_frees_the_queue(repository):
    engine = make_engine(repository, queue_pixels=2 * 28 * 28)
    engine.start()
    model = engine.catalog.get("gan-mnist")
    engine.abandon(engine.submit(model, model.feeds([1, 2])))
    assert engine.drain(timeout=10)


def test_failed_start_reports_the_reason(repository, monkeypatch):
    engine = make_engine(repository)
    monkeypatch.setattr("service.runtime.scheduling.engine.slots", lambda *_: 1 / 0)
    engine.start()
    assert engine.state is EngineState.FAILED
    assert "division by zero" in engine.reason


def test_fails_without_a_ready_model(models, tmp_path):
    engine = make_engine(tmp_path / "nothing")
    engine.start()
    assert engine.state is EngineState.FAILED
    assert "empty" in engine.reason
    for name in TINY:
        (models / name / "1" / "generator.onnx").unlink()
    engine = make_engine(models)
    engine.start()
    assert engine.state is EngineState.FAILED
    assert "gan-mnist@1: generator.onnx cannot be read" in engine.reason


def test_drain_waits_for_permitted_requests(repository):
    engine = make_engine(repository)
    engine.start()
    model = engine.catalog.get("gan-mnist")
    drained = []
    thread = threading.Thread(target=lambda: drained.append(engine.drain(timeout=30)))
    with permit(engine):
        thread.start()
        while engine.state is EngineState.READY:
            pass
        # The second step of a request that was accepted before.
        assert len(generate(engine, model, [1])) == 1
        with pytest.raises(NotReady, match="shutting down"), permit(engine):
            pass
        assert not drained
    thread.join(30)
    assert drained == [True]
    with pytest.raises(NotReady, match="stopped"):
        engine.submit(model, model.feeds([1]))


def test_drain_returns_false_after_timeout(repository):
    engine = make_engine(repository)
    engine.start()
    with permit(engine):
        assert not engine.drain(timeout=0.1)


def test_drain_permitted_only_ignores_abandoned_jobs(repository):
    engine = make_engine(repository)
    engine.start()
    started, end = threading.Event(), threading.Event()
    model = engine.catalog.get("gan-mnist")

    def hang(role, feeds):
        started.set()
        end.wait(30)
        return {"pixels": feeds["z"]}

    model.run = hang
    job = engine.submit(model, model.feeds([1]))
    assert started.wait(10)
    engine.abandon(job)
    assert engine.drain(timeout=30, permitted_only=True)
    assert not end.is_set()
    end.set()
    assert engine.drain(timeout=30)


def test_refuses_reload_before_start_and_after_stop(repository):
    engine = make_engine(repository)
    with pytest.raises(NotReady, match="being loaded"):
        engine.reload()
    engine.start()
    assert [entry.id for entry in engine.reload().kept] == [f"{name}@1" for name in sorted(TINY)]
    assert engine.drain(timeout=10)
    with pytest.raises(NotReady, match="stopped"):
        engine.reload()


def test_engine_without_models_fails_until_one_is_added(models):
    engine = make_engine(models)
    engine.start()
    for name in TINY:
        (models / name).rename(models / f".{name}")
    engine.reload()
    assert engine.state is EngineState.FAILED
    assert "empty" in engine.reason
    (models / ".gan-mnist").rename(models / "gan-mnist")
    engine.reload()
    assert engine.state is EngineState.READY
    assert len(generate(engine, engine.catalog.get("gan-mnist"), [1])) == 1
    assert engine.drain(timeout=10)


def test_models_with_different_plans_share_the_slots(repository):
    options = PlanOptions(workers=2, threads=1, max_rows=4, measure=False)
    engine = make_engine(repository, plan=options)
    engine.start()
    narrow, wide = engine.catalog.get("gan-mnist"), engine.catalog.get("dcgan-fashion")
    wide.plan = ExecutionPlan(workers=1, threads=2, max_rows=4)
    jobs = [
        (model, seed, engine.submit(model, model.feeds(range(seed, seed + 6))))
        for seed in range(20)
        for model in (narrow, wide)
    ]
    assert {job.group.slots for model, _, job in jobs if model is narrow} == {1}
    assert {job.group.slots for model, _, job in jobs if model is wide} == {2}
    for model, seed, job in jobs:
        pixels = job.future.result(30)["pixels"]
        assert (pixels == model.generate(range(seed, seed + 6))).all()
        engine.abandon(job)
    assert engine.drain(timeout=10)
