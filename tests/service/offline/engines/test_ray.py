"""The Ray engine on two real nodes, which are processes of this machine."""

import json

import pytest

from service.offline.engines import local
from service.offline.engines.ray import run as run_on_ray
from service.offline.execution import finish, remaining_shards
from service.offline.job import Layout, make_job
from service.offline.ledger import Ledger
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from tests.service.offline.conftest import files_of

ray = pytest.importorskip("ray")
from ray._private import state  # noqa: E402 - there is no public way to ask what a node has left


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


def whole(job, model, out):
    store = Store(str(out))
    builder, ledger = ShardBuilder(model, job, store), Ledger(store, job)
    ledger.begin()
    records = local.run(builder, range(job.shards), 2, lambda *_: None, lambda: False)
    finish(builder.renderer, job, ledger, records, 1.0)
    return files_of(out)


@pytest.mark.timeout(300)
def test_two_nodes_of_which_one_dies_make_what_one_machine_makes(
    cluster, drawn_repository, tmp_path
):
    nodes, second = cluster
    model = Model(drawn_repository / "painted-classes" / "1", Provider.CPU, plan_for(Provider.CPU))
    job = make_job(model.manifest, count=40_000, shard_size=500, layout=Layout.WEBDATASET)
    store = Store(str(tmp_path / "out"))
    ledger = Ledger(store, job)
    ledger.begin()
    todo, _ = remaining_shards(job, ledger)
    made, left = [], []

    def listen(images, *_):
        made.append(images)
        free = state.available_resources_per_node().get(second.node_id, {}).get("CPU", 0)
        # An actor is there, and under way.
        if len(made) >= 10 and free < 1 and not left:
            left.append(job.shards - len(made))
            # Ends its processes and waits for that. Ray itself may notice only after the job.
            nodes.remove_node(second, allow_graceful=False)
            assert not second.any_processes_alive()

    records = run_on_ray(model, job, store, todo, listen, lambda: False, None)
    finish(ShardBuilder(model, job, store).renderer, job, ledger, records, 1.0)
    assert [shards > 0 for shards in left] == [True]
    assert sum(made) == 40_000
    assert sorted(record.shard for record in records) == list(range(job.shards))
    assert files_of(tmp_path / "out") == whole(job, model, tmp_path / "whole")


@pytest.mark.timeout(300)
def test_the_command_starts_a_cluster_of_its_own(run, tmp_path):
    flags = ["--count", "300", "--format", "webdataset"]
    done = run("painted-classes", tmp_path / "ray", "--engine", "ray", *flags)
    run("painted-classes", tmp_path / "local", *flags)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert json.loads((tmp_path / "ray" / "summary.json").read_text())["images"] == 300
    assert len(done.stderr.splitlines()) <= 2, done.stderr


def test_a_cluster_that_is_not_there_is_one_line(run, tmp_path):
    flags = ["--count", "3", "--engine", "ray", "--address", "127.0.0.1:1"]
    done = run("painted-classes", tmp_path / "out", *flags, code=2)
    assert done.stderr.splitlines()[-1].startswith("Error: --address")
