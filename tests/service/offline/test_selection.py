"""Jobs that select images by the score of the discriminator, in shards."""

import json

import numpy as np
import pytest

from service.offline.execution import estimate, remaining_shards, write_summary
from service.offline.job import make_job
from service.offline.ledger import Ledger
from service.offline.rendering import ShardRenderer
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.ranking import Selection
from service.runtime.request_fields import InvalidRequest
from tests.support.sampling import read_files, read_metadata
from tests.support.scored_models import brightness, write_scored_models

QUARTER = Selection(0.25)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    models = tmp_path_factory.mktemp("scored")
    write_scored_models(models)
    return models


@pytest.fixture
def model_of(scored):
    return lambda name: Model(scored / name / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


@pytest.fixture
def job_of(scored):
    def make(name="painted", **options):
        return make_job(read_manifest(scored / name / "1"), **{"rank": QUARTER} | options)

    return make


def build(model, job, out, shards=None):
    """Build a job's shards in an order, and its summary."""
    builder, ledger = ShardBuilder(model, job, Store(str(out))), Ledger(Store(str(out)), job)
    ledger.begin()
    for shard in range(job.shards) if shards is None else shards:
        builder.build(shard)
    missing, records = remaining_shards(job, ledger)
    assert not missing
    return write_summary(builder.renderer, job, ledger, records, 1.0)


def test_each_shard_keeps_the_best_of_its_candidates(model_of, job_of):
    model, job = model_of("painted"), job_of(count=10, seed=100, shard_size=4)
    renderer = ShardRenderer(model, job)
    kept = [[image.item.seed for image in renderer.shard(shard)] for shard in range(3)]
    shards = (range(100, 116), range(116, 132), range(132, 140))
    for seeds, candidates in zip(kept, shards, strict=True):
        scores = brightness(model.generate(candidates))
        best = np.sort(np.argsort(-scores)[: len(seeds)])
        assert seeds == [candidates[number] for number in best]


def test_order_of_shards_and_resuming_do_not_change_the_output(model_of, job_of, tmp_path):
    model, job = model_of("cut"), job_of("cut", count=10, shard_size=4)
    whole = build(model, job, tmp_path / "whole")
    build(model, job, tmp_path / "resumed", shards=[2, 0, 1, 1])
    assert read_files(tmp_path / "resumed") == read_files(tmp_path / "whole")
    assert whole["images"] == 10
    lines = read_metadata(tmp_path / "whole")
    assert [line["number"] for line in lines] == list(range(10))
    assert len({line["seed"] for line in lines}) == 10


@pytest.mark.parametrize("selection", [QUARTER, Selection(0.3, "rejection")])
@pytest.mark.parametrize(
    "classes", [None, "balanced", ["dog", "cat", "cat"], {"cat": 1.0, "dog": 2.0}]
)
def test_the_classes_are_those_without_a_selection(model_of, job_of, classes, selection):
    options = {"count": 9, "shard_size": 5, "classes": classes, "seed": 7}
    model = model_of("painted-classes")

    def classes_of(rank):
        renderer = ShardRenderer(model, job_of("painted-classes", rank=rank, **options))
        return [image.item.class_name for shard in (0, 1) for image in renderer.shard(shard)]

    assert classes_of(selection) == classes_of(None)


def test_candidates_that_fail_are_not_kept(model_of, job_of, tmp_path):
    model = model_of("failing")
    summary = build(model, job_of("failing", count=8, shard_size=4), tmp_path)
    assert summary["failed"] == []
    assert summary["images"] == 8


def test_images_that_fail_are_reported_if_too_few_candidates_are_left(model_of, job_of, tmp_path):
    job = job_of("failing", count=8, shard_size=4, rank=Selection(1.0))
    summary = build(model_of("failing"), job, tmp_path)
    assert summary["images"] + len(summary["failed"]) == 8
    assert summary["failed"]


def test_estimate_includes_the_candidates(model_of, job_of, tmp_path):
    model, job = model_of("painted"), job_of(count=5, rank=Selection(0.01))
    runs = []

    def run(role, feeds):
        runs.append((role, len(next(iter(feeds.values())))))
        return model.run(role, feeds)

    expected = estimate(ShardRenderer(model, job, run), job, Store(str(tmp_path)), 5, 1)
    assert expected.images == 5
    assert sum(rows for role, rows in runs if role == "discriminator") == 200


def test_shards_have_fewer_images_with_more_candidates(job_of):
    assert job_of(count=100_000, rank=None).shard_size == 1000
    assert job_of(count=100_000, rank=Selection(0.1)).shard_size == 100
    assert job_of(count=100_000, rank=Selection(0.001)).shard_size == 1
    job = job_of(count=100_000)
    assert (job.shard_size, job.candidates) == (250, 400_000)
    assert json.loads(job.model_dump_json())["rank"] == {"share": 0.25, "method": "rank"}
    # The candidates, and the images that are kept, which are generated a second time.
    assert job.pixels_per_image(100) == 500


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mix": ["coarse"], "count": 3}, "mix"),
        ({"directions": {"size": 1.0}, "count": 3}, "directions"),
        ({"seeds": (0, 9)}, "seeds"),
        ({"rank": Selection(0.0), "count": 3}, "rank"),
        ({"count": MAX_SEED // 4 + 2}, "rank"),
    ],
)
def test_invalid_options(job_of, options, field):
    with pytest.raises(InvalidRequest) as raised:
        job_of(**options)
    assert raised.value.field == field
