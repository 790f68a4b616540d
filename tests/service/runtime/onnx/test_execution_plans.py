import json
import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx import execution_plans
from service.runtime.onnx.execution_plans import (
    MAX_ROWS,
    PlanCache,
    Planner,
    PlanOptions,
    cache_file,
    largest_bucket,
    rows_in,
    slots,
)
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, OutOfMemory, Provider, plan_for


@pytest.fixture
def folder(repository):
    return repository / "dcgan-fashion" / "1"


def load(folder, options=None, cache=None):
    return Planner(Provider.CPU, options, cache).load(folder, read_manifest(folder).digest)


def test_uses_default_plan_without_measuring(folder):
    plan = load(folder, PlanOptions(measure=False)).plan
    assert plan == plan_for(Provider.CPU)
    assert plan.source == "default"


def test_measured_plan_uses_all_cpus_and_keeps_outputs(folder):
    model = load(folder)
    plan = model.plan
    assert plan.source == "measured"
    assert plan.workers * plan.threads in range(max(usable_cpus() // 2, 1), usable_cpus() + 1)
    assert 1 <= plan.max_rows <= MAX_ROWS
    expected = load(folder, PlanOptions(measure=False)).generate(range(9))
    assert (model.generate(range(9)) == expected).all()


def test_measured_plan_is_cached_per_model_and_machine(folder, tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "plans.json"
    measured = load(folder, cache=cache).plan
    # Measuring again would raise.
    monkeypatch.setattr(execution_plans, "seconds_of", lambda *_: 1 / 0)
    cached = load(folder, cache=cache).plan
    assert cached == measured
    assert cached.source == "cached"
    names = sorted(path.name for path in cache.parent.iterdir())
    assert names == ["plans.json", "plans.json.lock"]
    for name, other in (("cpu_model", "another CPU"), ("usable_cpus", 64)):
        with monkeypatch.context() as other_machine:
            other_machine.setattr(execution_plans, name, lambda other=other: other)
            with pytest.raises(ZeroDivisionError):
                load(folder, cache=cache)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PlanOptions(workers=3, threads=2, max_rows=5), (3, 2, 5)),
        (PlanOptions(workers=1, measure=False), (1, usable_cpus(), 8)),
        (PlanOptions(threads=1, measure=False), (usable_cpus(), 1, 8)),
        (PlanOptions(threads=64, measure=False), (1, 64, 8)),
        (PlanOptions(max_rows=16, measure=False), (usable_cpus(), 1, 16)),
    ],
)
def test_operator_settings_are_used(folder, options, expected):
    plan = load(folder, options).plan
    assert (plan.workers, plan.threads, plan.max_rows) == expected
    assert plan.source == "set"


def test_measures_only_unset_values(folder):
    plan = load(folder, PlanOptions(workers=1, threads=1)).plan
    assert (plan.workers, plan.threads) == (1, 1)
    assert plan.source == "measured"
    assert load(folder, PlanOptions(max_rows=3)).plan.max_rows == 3


def test_slots_equal_the_possible_workers():
    assert slots(Provider.CPU, PlanOptions()) == usable_cpus()
    assert slots(Provider.CPU, PlanOptions(workers=7)) == 7
    assert slots(Provider.CUDA, PlanOptions()) == plan_for(Provider.CUDA).workers


@pytest.mark.parametrize(
    ("row_seconds", "rows"), [(1.0, 1), (0.03, 1), (0.025, 2), (0.006, 8), (1e-6, MAX_ROWS)]
)
def test_rows_in_is_limited_by_time(row_seconds, rows):
    assert rows_in(0.05, row_seconds) == rows


def test_slow_rows_use_all_cpus(folder, monkeypatch):
    monkeypatch.setattr(execution_plans, "seconds_of", lambda model, rows: 2.0 * rows)
    monkeypatch.setattr(execution_plans, "usable_cpus", lambda: 8)
    plan = load(folder).plan
    assert (plan.workers, plan.threads, plan.max_rows) == (1, 8, 1)


@pytest.mark.parametrize(("share", "alone"), [(0.5, 2), (0.9, 0)])
def test_lone_batch_gets_all_cpus_if_considerably_faster(
    folder, monkeypatch, tmp_path, share, alone
):
    monkeypatch.setattr(execution_plans, "usable_cpus", lambda: 2)
    seconds = {1: 1e-3, 2: share * 1e-3}
    monkeypatch.setattr(
        execution_plans, "seconds_of", lambda m, rows: rows * seconds[m.plan.threads]
    )
    # Parallel single-threaded runs have the higher throughput.
    monkeypatch.setattr(execution_plans, "images_per_second", lambda *_: [2.0, 1.0])
    cache = tmp_path / "plans.json"
    for source in ("measured", "cached"):
        plan = load(folder, cache=cache).plan
        assert (plan.workers, plan.threads, plan.alone, plan.source) == (2, 1, alone, source)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"a": 3}',
        b'{"a": {"workers": 0, "threads": 1, "max_rows": 1}}',
        b'{"a": {"workers": 1, "threads": 1, "max_rows": "8"}}',
        b'{"a": {"workers": 1, "threads": 1, "max_rows": 1e99}}',
        b'{"a": {"workers": 1, "threads": 1, "max_rows": 8, "buckets": [8, 1]}}',
        b'{"a": {"workers": 1, "threads": 1, "max_rows": 8, "buckets": 8}}',
        b'{"a": {"workers": 1, "threads": 1, "max_rows": 8, "alone": -1}}',
    ],
)
def test_invalid_cache_content_is_ignored(tmp_path, content):
    path = tmp_path / "plans.json"
    path.write_bytes(content)
    cache = PlanCache(path)
    assert cache.get("a") is None
    plan = ExecutionPlan(2, 3, 8, (2, 8), alone=6)
    cache.put("a", plan)
    assert cache.get("a") == plan
    assert json.loads(path.read_text())["a"]["max_rows"] == 8


def test_unwritable_cache_is_not_an_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    plan = load(folder, PlanOptions(workers=1, threads=1), tmp_path / "file" / "plans.json").plan
    assert plan.source == "measured"


def test_cache_keeps_the_latest_plans(tmp_path, monkeypatch):
    monkeypatch.setattr(execution_plans, "_CACHED_PLANS", 3)
    cache = PlanCache(tmp_path / "plans.json")
    for i in range(5):
        cache.put(str(i), ExecutionPlan(1, 1, i + 1))
    assert [key for key in map(str, range(5)) if cache.get(key)] == ["2", "3", "4"]


def test_concurrent_cache_writes_keep_all_plans(tmp_path):
    cache = PlanCache(tmp_path / "plans.json")
    threads = [
        threading.Thread(target=cache.put, args=(str(i), ExecutionPlan(1, 1, 1))) for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(str(i)) for i in range(20))


def test_cache_location_follows_environment(monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", "/there")
    assert str(cache_file()) == "/there/plans.json"
    monkeypatch.delenv("GANYMEDE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(cache_file()) == "/caches/ganymede/plans.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_file()) == "/home/me/.cache/ganymede/plans.json"


class BucketModel:
    """A model on a GPU whose memory holds batches of up to `fits` rows."""

    manifest = type("Manifest", (), {"name": "stub"})

    def __init__(self, fits):
        self.plan = ExecutionPlan(1, 1, 64, (1, 2, 4, 8))
        self.fits = fits
        self.manifest = SimpleNamespace(name="bucket", main_role=GENERATOR)

    def feeds(self, seeds):
        return {"z": np.zeros((len(seeds), 1))}

    def run(self, role, feeds):
        if len(feeds["z"]) > self.fits:
            raise OutOfMemory


def test_buckets_are_limited_by_gpu_memory():
    assert largest_bucket(BucketModel(fits=100)).buckets == (1, 2, 4, 8)
    plan = largest_bucket(BucketModel(fits=4))
    assert (plan.buckets, plan.max_rows) == ((1, 2, 4), 4)
    with pytest.raises(OutOfMemory, match="even with a single row"):
        largest_bucket(BucketModel(fits=0))


def plan_of(folder, path, sources):
    planner = Planner(Provider.CPU, PlanOptions(), path)
    sources.put(planner.load(folder, "digest").plan.source)


def test_one_of_several_processes_measures(drawn_repository, tmp_path):
    context = multiprocessing.get_context("spawn")
    sources = context.Queue()
    arguments = (drawn_repository / "cut" / "1", tmp_path / "cache" / "plans.json", sources)
    processes = [context.Process(target=plan_of, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    assert sorted(sources.get(timeout=120) for _ in processes) == ["cached", "cached", "measured"]
    for process in processes:
        process.join()


def test_second_cache_is_used_if_the_first_cannot_be_written(drawn_repository, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    caches = tmp_path / "file" / "plans.json", tmp_path / "second" / "plans.json"
    sources = [
        Planner(Provider.CPU, PlanOptions(), *caches)
        .load(drawn_repository / "cut" / "1", "digest")
        .plan.source
        for _ in range(2)
    ]
    assert sources == ["measured", "cached"]
