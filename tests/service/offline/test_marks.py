"""The mark of generated images in the files of jobs, read by ExifTool."""

import io
import json
import tarfile

import pyarrow.parquet
import pytest
from PIL import Image

from service.offline.execution import write_summary
from service.offline.job import Layout, SamplingJob, as_text
from service.offline.ledger import Ledger, OutputConflict, as_started
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.runtime.images.encoding import ImageFormat
from service.runtime.images.xmp import SourceType, read_source_type
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.exiftool import source_types
from tests.support.image_to_image_models import write_translators
from tests.support.sampling import read_files, run_sample

GENERATED, COMPOSITE = SourceType


@pytest.fixture(scope="module")
def model(drawn_repository):
    return Model(drawn_repository / "painted-classes" / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


def run_job(model, job, out, shards=None):
    """Run a job, or only some of its shards."""
    store = Store(str(out))
    ledger, builder = Ledger(store, job), ShardBuilder(model, job, store)
    ledger.begin()
    records = [builder.build(shard) for shard in shards or range(job.shards)]
    if shards is None:
        write_summary(builder.renderer, job, ledger, records, 1.0)


def unpack(layout, out, folder):
    """Write the images of a job, and its contact sheet, into a folder."""
    folder.mkdir()
    (folder / "contact-sheet.png").write_bytes((out / "contact-sheet.png").read_bytes())
    if layout is Layout.FOLDER:
        for path in out.rglob("*.webp"):
            path.rename(folder / path.name)
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".webp"):
                    (folder / member.name).write_bytes(archive.extractfile(member).read())
    for path in out.glob("*.parquet"):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            (folder / f"{row['seed']}.webp").write_bytes(row["image"]["bytes"])


# JSON Lines are for texts, which have no mark.
@pytest.mark.parametrize("layout", [Layout.FOLDER, Layout.WEBDATASET, Layout.PARQUET])
def test_files_of_every_layout_are_marked(model, job_of, tmp_path, layout):
    job = job_of(count=3, layout=layout, image=ImageFormat.WEBP)
    run_job(model, job, tmp_path / "out")
    unpack(layout, tmp_path / "out", tmp_path / "files")
    found = source_types(tmp_path / "files")
    assert len(found) == 4
    assert set(found.values()) == {GENERATED.uri}


def test_outputs_for_inputs_are_composites(tmp_path):
    write_translators(tmp_path / "models")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    Image.new("RGB", (20, 30), "red").save(inputs / "a.png")
    out = tmp_path / "out"
    run_sample(tmp_path / "models", "larger", out, "--input", str(inputs))
    found = {name: each for name, each in source_types(out).items() if name.endswith(".png")}
    assert len(found) == 2
    assert set(found.values()) == {COMPOSITE.uri}


def old_job(job):
    """Return a job as versions without the mark have saved it, and its text."""
    fields = json.loads(as_text(job))
    assert fields.pop("marked") is True
    text = json.dumps(fields)
    return SamplingJob.model_validate_json(text), text


def test_job_of_an_earlier_version_ends_as_it_was_started(model, job_of, tmp_path):
    job = job_of(count=6, shard_size=2)
    old, text = old_job(job)
    run_job(model, old, tmp_path / "whole")
    run_job(model, old, tmp_path / "out", shards=[1])
    (tmp_path / "out" / ".ganymede" / "job.json").write_text(text)
    store = Store(str(tmp_path / "out"))
    # Never mixed: what does not continue the old job conflicts with it.
    with pytest.raises(OutputConflict, match="marked"):
        Ledger(store, job).is_complete()
    resumed = as_started(job, store)
    assert not resumed.marked
    assert not Ledger(store, resumed).is_complete()
    run_job(model, resumed, tmp_path / "out")
    files = read_files(tmp_path / "out")
    assert files == read_files(tmp_path / "whole")
    pngs = {name: each for name, each in files.items() if name.endswith(".png")}
    images = [each for name, each in pngs.items() if name != "contact-sheet.png"]
    assert len(images) == 6
    assert {read_source_type(each) for each in images} == {None}
    # A finished job of an earlier version is complete, and another job is still another one.
    assert Ledger(store, as_started(job, store)).is_complete()
    other = job_of(count=7, shard_size=2)
    assert as_started(other, store) == other


def test_command_says_that_a_resumed_job_is_unmarked(drawn_repository, job_of, tmp_path):
    flags = ("--count", "4", "--shard-size", "2")
    run_sample(drawn_repository, "painted-classes", tmp_path / "new", *flags)
    saved = (tmp_path / "new" / "job.json").read_text()
    out = tmp_path / "out"
    (out / ".ganymede").mkdir(parents=True)
    fields = json.loads(saved)
    assert fields.pop("marked") is True
    (out / ".ganymede" / "job.json").write_text(json.dumps(fields))
    process = run_sample(drawn_repository, "painted-classes", out, *flags)
    assert "do not carry the mark" in process.stdout
    images = sorted(out.rglob("*.png"))
    assert len(images) == 5
    for path in images:
        marked = read_source_type(path.read_bytes()) is not None
        assert marked == (path.name == "contact-sheet.png")
    with Image.open(io.BytesIO(images[0].read_bytes())) as image:
        image.load()
