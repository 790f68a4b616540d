import collections

import pytest

from service.offline.job import JobError, JobItems, Layout, folder_names, make_job
from service.runtime.images.encoding import ImageFormat


def test_shards_hold_every_number_once(job_of):
    for count in (1, 99, 100, 101, 1601, 16_001, 123_456):
        job = job_of(count=count)
        numbers = [number for shard in range(job.shards) for number in job.numbers(shard)]
        assert numbers == list(range(count))
        assert job.shard_size <= 1000


def test_seeds_are_a_range_or_a_first_and_a_count(job_of):
    job = job_of(count=None, seeds="5-14")
    assert (job.first_seed, job.count) == (5, 10)
    assert job == job_of(seed=5)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"count": 0}, "--count"),
        ({"count": -1}, "--count"),
        ({"count": None}, "--count N or --seeds A-B"),
        ({"count": None, "seeds": "9-3"}, "--seeds"),
        ({"count": None, "seeds": "all"}, "--seeds"),
        ({"seeds": "0-3"}, "--seeds"),
        ({"seed": -1}, "seeds go from 0"),
        ({"seed": 2**32 - 5}, "seeds go from 0"),
        ({"classes": "lion"}, "there are: cat"),
        ({"classes": "cat=1,lion=2"}, "there are: cat"),
        ({"classes": "cat=1,dog"}, "NAME=WEIGHT"),
        ({"classes": "cat=-1"}, "from 0 on"),
        ({"classes": "cat=nan"}, "from 0 on"),
        ({"classes": ","}, "at least one"),
        ({"classes": "cat=0"}, "more than 0"),
        ({"classes": "cat=1,cat=2"}, "twice"),
        ({"truncation": 7.0}, "--truncation"),
        ({"mix": "middling"}, "there are: coarse"),
        ({"mix": "99"}, "--mix"),
        ({"resize": "0"}, "--resize"),
        ({"resize": "64x"}, "--resize"),
        ({"resize": "20000", "image": ImageFormat.WEBP}, "--resize"),
        ({"shard_size": 0}, "--shard-size"),
    ],
)
def test_what_cannot_be_is_said_by_its_flag(job_of, wishes, said):
    with pytest.raises(JobError, match=said):
        job_of(**wishes)


@pytest.mark.parametrize(
    "wishes", [{"classes": "balanced"}, {"truncation": 0.5}, {"mix": "coarse"}]
)
def test_a_model_that_cannot_is_named(manifest_of, wishes):
    manifest = manifest_of("cut")
    latent = manifest.latent.model_copy(update={"truncation": None})
    manifest = manifest.model_copy(update={"classes": (), "styles": None, "latent": latent})
    with pytest.raises(JobError, match="cut"):
        make_job(manifest, count=1, **wishes)


def classes_of(job, manifest):
    items = JobItems(job, manifest)
    return [items(number).class_name for number in range(job.count)]


def test_classes_are_balanced_listed_or_drawn(job_of, manifest_of):
    manifest = manifest_of("painted-classes")
    names = list(manifest.classes)
    balanced = collections.Counter(classes_of(job_of(count=600, classes="balanced"), manifest))
    assert max(balanced.values()) - min(balanced.values()) <= 1
    listed = classes_of(job_of(count=4, classes=f"{names[1]},{names[0]}"), manifest)
    assert listed == [names[1], names[0]] * 2
    drawn = collections.Counter(
        classes_of(job_of(count=2000, classes=f"{names[0]}=3,{names[1]}=1"), manifest)
    )
    assert set(drawn) == set(names[:2])
    # Four standard deviations of a binomial draw.
    assert abs(drawn[names[0]] - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5


def test_a_picture_is_a_function_of_its_number_alone(job_of, manifest_of):
    manifest = manifest_of("painted-classes")
    long = JobItems(job_of(count=500, mix="coarse", classes="balanced"), manifest)
    short = JobItems(job_of(count=50, seed=100, mix="coarse", classes="balanced"), manifest)
    partners = {long(number).parameters["column"]["seed"] for number in range(500)}
    assert len(partners) == 500
    for number in (0, 7, 49):
        ours, theirs = short(number).parameters, long(number + 100).parameters
        assert ours["row"]["seed"] == theirs["row"]["seed"]
        assert ours["column"]["seed"] == theirs["column"]["seed"]


def test_folders_of_classes_are_names_of_folders_and_differ():
    names = ["t-shirt/top", "T-shirt top", "..", "", "ankle boot", "Ankle-Boot", "日本"]
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder.strip(".")
        assert not set(folder) & set('/\\: "')


def test_layouts_are_those_that_the_command_has():
    assert [layout.value for layout in Layout] == ["folder", "webdataset", "parquet"]
