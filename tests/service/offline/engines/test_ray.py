"""The Ray engine with two real nodes, as processes on this machine."""

import json

import pytest

from service.offline.engines import local
from service.offline.engines.ray import ShardActor, repository_files
from service.offline.engines.ray import run as run_on_ray
from service.offline.execution import remaining_shards, write_summary
from service.offline.job import Layout, make_job
from service.offline.ledger import Ledger
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from tests.support.output_models import CAPTIONED, TEXT_MODEL
from tests.support.sampling import messages, read_files, run_sample

ray = pytest.importorskip("ray")
from ray._private import state  # noqa: E402 - the resources of one node have no public API


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20}
    )
    second = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        yield nodes, second
    finally:
        ray.shutdown()
        nodes.shutdown()


def run_locally(job, model, out):
    store = Store(str(out))
    builder, ledger = ShardBuilder(model, job, store), Ledger(store, job)
    ledger.begin()
    records = local.run(builder, range(job.shards), 2, lambda *_: None, lambda: False)
    write_summary(builder.renderer, job, ledger, records, 1.0)
    return read_files(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dead_node_does_not_change_the_output(cluster, drawn_repository, tmp_path):
    nodes, second = cluster
    model = Model(drawn_repository / "painted-classes" / "1", Provider.CPU, plan_for(Provider.CPU))
    job = make_job(model.manifest, count=40_000, shard_size=500, layout=Layout.WEBDATASET)
    store = Store(str(tmp_path / "out"))
    ledger = Ledger(store, job)
    ledger.begin()
    shards, _ = remaining_shards(job, ledger)
    built, remaining_at_death = [], []

    def kill_second_node(images, *_):
        built.append(images)
        free = state.available_resources_per_node().get(second.node_id, {}).get("CPU", 0)
        # An actor runs on the second node once its CPU is taken.
        if len(built) >= 10 and free < 1 and not remaining_at_death:
            remaining_at_death.append(job.shards - len(built))
            # Kills its processes and waits for them. Ray may notice only after the job.
            nodes.remove_node(second, allow_graceful=False)
            assert not second.any_processes_alive()

    records = run_on_ray(model, job, store, shards, kill_second_node, lambda: False, None)
    write_summary(ShardBuilder(model, job, store).renderer, job, ledger, records, 1.0)
    assert [remaining > 0 for remaining in remaining_at_death] == [True]
    assert sum(built) == 40_000
    assert sorted(record.shard for record in records) == list(range(job.shards))
    assert read_files(tmp_path / "out") == run_locally(job, model, tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_command_starts_its_own_cluster(run, tmp_path):
    flags = ["--count", "300", "--format", "webdataset"]
    process = run("painted-classes", tmp_path / "ray", "--engine", "ray", *flags)
    run("painted-classes", tmp_path / "local", *flags)
    assert read_files(tmp_path / "ray") == read_files(tmp_path / "local")
    assert json.loads((tmp_path / "ray" / "summary.json").read_text())["images"] == 300
    # Of Ray's own messages few are left.
    assert len(messages(process.stderr)) <= 2, process.stderr


def test_actor_needs_only_the_files_that_are_sent(output_repository, tmp_path):
    folder = output_repository / CAPTIONED / "1"
    model = Model(folder, Provider.CPU, plan_for(Provider.CPU))
    options = {"prompts": ["abc", ""], "count": 6, "shard_size": 2, "layout": Layout.WEBDATASET}
    job, store = make_job(model.manifest, **options), Store(str(tmp_path / "actor"))
    ledger = Ledger(store, job)
    ledger.begin()
    actor = ShardActor(repository_files(model), job, store, Provider.CPU.value)
    assert actor({"shard": [2, 0, 1]})["images"] == [2, 2, 2]
    records = list(ledger.records().values())
    write_summary(ShardBuilder(model, job, store).renderer, job, ledger, records, 1.0)
    assert read_files(tmp_path / "actor") == run_locally(job, model, tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prompts_are_encoded_on_the_cluster(output_repository, tmp_path):
    """The text encoder is sent with the model."""
    (tmp_path / "prompts.txt").write_text("abc\n\nabcdefgh\n")
    flags = ["--prompts", str(tmp_path / "prompts.txt"), "--count", "30", "--shard-size", "10"]
    run_sample(output_repository, CAPTIONED, tmp_path / "ray", "--engine", "ray", *flags)
    run_sample(output_repository, CAPTIONED, tmp_path / "local", *flags)
    assert read_files(tmp_path / "ray") == read_files(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_are_the_same_on_the_cluster(output_repository, tmp_path):
    flags = ["--count", "30", "--shard-size", "10", "--prefix", "ab"]
    run_sample(output_repository, TEXT_MODEL, tmp_path / "ray", "--engine", "ray", *flags)
    run_sample(output_repository, TEXT_MODEL, tmp_path / "local", *flags)
    assert read_files(tmp_path / "ray") == read_files(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_limit_the_actors(cluster, drawn_repository, tmp_path):
    model = Model(drawn_repository / "painted-classes" / "1", Provider.CPU, plan_for(Provider.CPU))
    job = make_job(model.manifest, count=40, layout=Layout.WEBDATASET, shard_size=5)
    most = 0

    def note(*_):
        nonlocal most
        actors = state.actors().values()
        # Ray Data has an actor of its own.
        own = [actor for actor in actors if "ShardActor" in json.dumps(actor, default=str)]
        most = max(most, sum(actor["State"] == "ALIVE" for actor in own))

    store = Store(str(tmp_path / "out"))
    Ledger(store, job).begin()
    records = run_on_ray(model, job, store, range(8), note, lambda: False, None, workers=1)
    assert (len(records), most) == (8, 1)


@pytest.mark.slow
def test_driver_measures_no_plan(run, tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_PLAN", "measure")
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    run("painted", tmp_path / "ray", "--count", "20", "--engine", "ray", "--workers", "1")
    assert not (tmp_path / "cache" / "plans.json").exists()
    run("painted", tmp_path / "local", "--count", "20")
    assert (tmp_path / "cache" / "plans.json").exists()


def test_unreachable_cluster_gives_one_line_error(run, tmp_path):
    flags = ["--count", "3", "--engine", "ray", "--address", "127.0.0.1:1"]
    process = run("painted-classes", tmp_path / "out", *flags, code=2)
    assert process.stderr.splitlines()[-1].startswith("Error: --address")


def test_start_failure_gives_one_line_error(run, tmp_path, monkeypatch):
    # Ray's sockets are in this folder, and their paths are limited to 107 bytes.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    process = run("painted-classes", tmp_path / "out", "--count", "3", "--engine", "ray", code=2)
    assert process.stderr.splitlines()[-1].startswith("Error: --engine ray: Ray does not start")
