import collections

import pytest

from service.offline.job import JobItems, Layout, folder_names, make_job
from service.runtime.images.encoding import ImageFormat
from service.runtime.request_fields import InvalidRequest


def test_shards_partition_numbers(job_of):
    for count in (1, 99, 100, 101, 1601, 16_001, 123_456):
        job = job_of(count=count)
        numbers = [number for shard in range(job.shards) for number in job.numbers(shard)]
        assert numbers == list(range(count))
        assert job.shard_size <= 1000


def test_seeds_from_range_or_from_first_and_count(job_of):
    job = job_of(count=None, seeds=(5, 14))
    assert (job.first_seed, job.count) == (5, 10)
    assert job == job_of(seed=5)


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"count": 0}, "count", "at least 1"),
        ({"count": -1}, "count", "at least 1"),
        ({"count": None}, "count", "missing"),
        ({"count": None, "seeds": (9, 3)}, "seeds", "B at least A"),
        ({"seeds": (0, 3)}, "seeds", "cannot be combined"),
        ({"seed": -1}, "seeds", "from 0 to"),
        ({"seed": 2**32 - 5}, "seeds", "from 0 to"),
        ({"classes": ["lion"]}, "classes", "available: cat"),
        ({"classes": {"cat": 1, "lion": 2}}, "classes", "available: cat"),
        ({"classes": {"cat": -1}}, "classes", "at least 0"),
        ({"classes": {"cat": float("nan")}}, "classes", "at least 0"),
        ({"classes": []}, "classes", "at least one"),
        ({"classes": {"cat": 0}}, "classes", "greater than 0"),
        ({"classes": {"cat": 1, "0": 2}}, "classes", "twice"),
        ({"truncation": 7.0}, "truncation", "expected"),
        ({"mix": ["middling"]}, "mix", "available: coarse"),
        ({"mix": ["99"]}, "mix", "index from 0"),
        ({"directions": {"bright": 1.0}}, "directions", "`ganymede directions painted-classes`"),
        ({"directions": {"bright": 1.0}, "mix": ["coarse"]}, "directions", "combined with mix"),
        ({"resize": (0, 0)}, "resize", "pixels"),
        ({"resize": (20_000, 20_000), "image": ImageFormat.WEBP}, "resize", "pixels"),
        ({"shard_size": 0}, "shard_size", "at least 1"),
    ],
)
def test_rejects_invalid_option_by_field(job_of, options, field, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        job_of(**options)
    assert raised.value.field == field


def test_edits_do_not_depend_on_the_order_of_directions(manifest_of):
    manifest = manifest_of("movable")
    amounts = {"warm": 1.0, "bright": 2.0}
    job = make_job(manifest, count=1, directions=amounts)
    assert list(job.directions) == ["bright", "warm"]
    assert job.directions_sha256 == manifest.directions.sha256
    with pytest.raises(InvalidRequest, match="available: bright, warm, turn"):
        make_job(manifest, count=1, directions={"smile": 1.0})


@pytest.mark.parametrize(
    "options", [{"classes": "balanced"}, {"truncation": 0.5}, {"mix": ["coarse"]}]
)
def test_rejects_option_unsupported_by_model(manifest_of, options):
    manifest = manifest_of("cut")
    latent = manifest.latent.model_copy(update={"truncation": None})
    manifest = manifest.model_copy(update={"classes": (), "styles": None, "latent": latent})
    with pytest.raises(InvalidRequest, match="cut"):
        make_job(manifest, count=1, **options)


def class_names(job, manifest):
    items = JobItems(job, manifest)
    return [items(number).class_name for number in range(job.count)]


def test_classes_balanced_listed_or_weighted(job_of, manifest_of):
    manifest = manifest_of("painted-classes")
    names = list(manifest.classes)
    balanced = collections.Counter(class_names(job_of(count=600, classes="balanced"), manifest))
    assert max(balanced.values()) - min(balanced.values()) <= 1
    listed = class_names(job_of(count=4, classes=[names[1], names[0]]), manifest)
    assert listed == [names[1], names[0]] * 2
    weights = {names[0]: 3, names[1]: 1}
    counts = collections.Counter(class_names(job_of(count=2000, classes=weights), manifest))
    assert set(counts) == set(names[:2])
    # Four standard deviations of a binomial distribution.
    assert abs(counts[names[0]] - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5


def test_class_named_balanced_takes_precedence(manifest_of):
    manifest = manifest_of("painted-classes").model_copy(
        update={"classes": ("cat", "balanced", "dog")}
    )
    assert make_job(manifest, count=1, classes="balanced").classes == (1,)


def test_item_depends_on_seed_only(job_of, manifest_of):
    manifest = manifest_of("painted-classes")
    options = {"mix": ["coarse"], "classes": "balanced"}
    long = JobItems(job_of(count=500, **options), manifest)
    short = JobItems(job_of(count=50, seed=100, **options), manifest)
    partners = {long(number).parameters["column"]["seed"] for number in range(500)}
    assert len(partners) == 500
    for number in (0, 7, 49):
        shifted, original = short(number).parameters, long(number + 100).parameters
        assert shifted["row"]["seed"] == original["row"]["seed"]
        assert shifted["column"]["seed"] == original["column"]["seed"]


def test_class_folders_are_valid_and_unique():
    names = ["t-shirt/top", "T-shirt top", "..", "", "ankle boot", "Ankle-Boot", "日本"]
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder.strip(".")
        assert not set(folder) & set('/\\: "')


def test_layout_names():
    assert [layout.value for layout in Layout] == ["folder", "webdataset", "parquet", "jsonl"]
