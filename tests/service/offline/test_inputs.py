"""Jobs of image-to-image models: `ganymede sample MODEL --input FOLDER`."""

import io
import json
import os
import subprocess
import tarfile
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.offline.inputs import InputError, Inputs, UnreadableInput
from tests.support.image_to_image_models import FILL, blurred, write_translators
from tests.support.mixed_images import write_mixed_images
from tests.support.servers import ganymede, serving


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    models = tmp_path_factory.mktemp("translators")
    write_translators(models)
    return models


@pytest.fixture
def sample(repository, tmp_path):
    """Run `ganymede sample MODEL FLAGS`, and check its exit code."""
    environment = os.environ | {"GANYMEDE_PLAN": "default"}

    def run(model, *flags, code=0):
        command = ganymede("sample", model, "--models", repository, *flags)
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, check=False
        )
        assert process.returncode == code, process.stderr
        return process

    return run


def noise(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_images(folder, count=25):
    """Write images of two sizes and formats into two folders; return their pixels by name."""
    images = {}
    for i in range(count):
        pixels = noise(20 + i % 2, 30, seed=i)
        name = f"{'ab'[i % 2]}/number {i:02}.{'webp' if i % 5 == 0 else 'png'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, lossless=True)
        images[name] = pixels
    return images


def lines_of(out):
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_output_files_are_named_after_inputs(sample, tmp_path):
    images = write_images(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    sample("softer", "--input", tmp_path / "in", "--out", tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    assert [line["input_file"] for line in lines] == sorted(images)
    assert lines[0]["file_name"] == "a/number-00.png"
    for line in lines:
        output = np.asarray(Image.open(tmp_path / "out" / line["file_name"]))
        np.testing.assert_array_equal(output, blurred(images[line["input_file"]]))


@pytest.mark.slow
def test_files_equal_http_responses(sample, repository, tmp_path):
    write_images(tmp_path / "in", 3)
    flags = ["--direction", "invert", "--input", tmp_path / "in", "--out", tmp_path / "out"]
    sample("softer", *flags)
    with serving(repository, env={"GANYMEDE_PLAN": "default"}) as server:
        for line in lines_of(tmp_path / "out"):
            response = httpx.post(
                server.url + "/v1/translate",
                data={"model": "softer", "direction": "invert", "format": "png"},
                files={"image": (tmp_path / "in" / line["input_file"]).read_bytes()},
            )
            assert response.content == (tmp_path / "out" / line["file_name"]).read_bytes()
            assert response.headers["x-ganymede-input"] == line["input"]


def test_reads_and_writes_tar_shards(sample, tmp_path):
    images = write_images(tmp_path / "in")
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"s-{shard}.tar", "w") as archive:
            for name in sorted(images)[shard::2]:
                archive.add(tmp_path / "in" / name, name.replace("/", "-"))
    flags = ["--input", tmp_path / "shards", "--format", "webdataset", "--shard-size", "10"]
    sample("larger", *flags, "--out", tmp_path / "out")
    outputs = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".png"):
                    content = archive.extractfile(member).read()
                    outputs[member.name] = np.asarray(Image.open(io.BytesIO(content)))
    assert len(outputs) == len(images)
    for line in lines_of(tmp_path / "out"):
        name = line["input_file"].partition("/")[2].replace("-", "/", 1)
        expected = blurred(images[name]).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(outputs[line["member"]], expected)


def test_similar_names_have_unique_webdataset_keys(sample, tmp_path):
    import webdataset

    images = {}
    # Equal names in two folders, names that differ only after a dot, and names that are too long
    # for the original tar format.
    long = "花" * 80
    for i, name in enumerate(("a/1", "b/1", "img.1", "img.2", "img-1", f"{long}/{long}")):
        images[f"{name}.png"] = noise(seed=i)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[f"{name}.png"]).save(tmp_path / "in" / f"{name}.png")
    flags = ["--input", tmp_path / "in", "--format", "webdataset", "--direction", "invert"]
    sample("softer", *flags, "--out", tmp_path / "out")
    shard = str(tmp_path / "out" / "images-00000.tar")
    rows = webdataset.WebDataset(shard, shardshuffle=False).decode("rgb8")
    decoded = {row["__key__"]: row["png"] for row in rows}
    assert len(decoded) == len(images)
    for line in lines_of(tmp_path / "out"):
        key = line["member"].removesuffix(".png")
        np.testing.assert_array_equal(decoded[key], 255 - images[line["input_file"]])


def test_masks_by_file_name_or_shared_boxes(sample, tmp_path):
    images = write_images(tmp_path / "in", 4)
    masks = {}
    for i, (name, pixels) in enumerate(images.items()):
        masks[name] = np.zeros(pixels.shape[:2], np.uint8)
        masks[name][i : i + 5, 3:9] = 255
        path = (tmp_path / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[name]).save(path)
    flags = ["--input", tmp_path / "in"]
    sample("filled", *flags, "--mask", tmp_path / "masks", "--out", tmp_path / "out")
    for line in lines_of(tmp_path / "out"):
        output = np.asarray(Image.open(tmp_path / "out" / line["file_name"]))
        hole = masks[line["input_file"]] > 0
        assert (output[hole] == FILL).all()
        np.testing.assert_array_equal(output[~hole], images[line["input_file"]][~hole])
    sample("filled", *flags, "--boxes", "1,2,3,4;9,9,2,2", "--out", tmp_path / "boxes")
    output = np.asarray(
        Image.open(tmp_path / "boxes" / lines_of(tmp_path / "boxes")[0]["file_name"])
    )
    assert (output[2:6, 1:4] == FILL).all()
    assert (output[9:11, 9:11] == FILL).all()
    Image.fromarray(masks["b/number 01.png"] * 0).save(tmp_path / "masks" / "a" / "another.png")
    process = sample(
        "filled", *flags, "--mask", tmp_path / "masks", "--out", tmp_path / "out", code=2
    )
    assert "holds another job" in process.stderr
    (tmp_path / "masks" / "a" / "number 00.png").unlink()
    process = sample(
        "filled", *flags, "--mask", tmp_path / "masks", "--out", tmp_path / "other", code=2
    )
    assert "has no mask for a/number 00.webp" in process.stderr


def test_skips_and_reports_unreadable_input(sample, tmp_path):
    images = write_images(tmp_path / "in", 5)
    (tmp_path / "in" / "a" / "broken.png").write_bytes(b"not an image")
    process = sample("softer", "--input", tmp_path / "in", "--out", tmp_path / "out", code=3)
    assert "a/broken.png cannot be used" in process.stderr
    assert len(lines_of(tmp_path / "out")) == len(images)


@pytest.mark.slow
def test_accepts_mixed_sizes_and_modes(sample, tmp_path):
    (tmp_path / "in").mkdir()
    written = write_mixed_images(tmp_path / "in")
    sample("colored", "--input", tmp_path / "in", "--out", tmp_path / "out", "--image", "jpeg")
    assert len(lines_of(tmp_path / "out")) == len(written)


def test_resumes_with_identical_inputs_only(sample, tmp_path):
    write_images(tmp_path / "in", 4)
    flags = ["--input", tmp_path / "in", "--out", tmp_path / "out"]
    sample("softer", *flags)
    assert "already complete" in sample("softer", *flags).stdout
    write_images(tmp_path / "in", 5)
    assert "holds another job" in sample("softer", *flags, code=2).stderr


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("softer", [], "--input: missing: softer is an image-to-image model"),
        ("softer", ["--input", "IN", "--seed", "1"], "--seed: softer is an image-to-image model"),
        ("softer", ["--input", "IN", "--direction", "up"], "available: soften, invert"),
        ("softer", ["--input", "IN", "--boxes", "1,1,1,1"], "--boxes: softer takes no mask"),
        ("softer", ["--input", "IN", "--count", "99"], "--count: expected 1 to 2"),
        ("softer", ["--input", "nowhere"], "nowhere contains no images"),
        ("filled", ["--input", "IN"], "--mask: missing: filled needs a mask or boxes"),
        ("filled", ["--input", "IN", "--boxes", "1,2"], "--boxes: expected X,Y,WIDTH,HEIGHT"),
    ],
)
def test_invalid_options_give_one_line_error(sample, tmp_path, model, flags, message):
    write_images(tmp_path / "in", 2)
    flags = [str(tmp_path / "in") if flag == "IN" else flag for flag in flags]
    process = sample(model, *flags, "--out", tmp_path / "out", code=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stems_are_unique_and_stay_in_folder(tmp_path):
    for name in ("a.png", "A.webp", "b.png", "b.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    stems = Inputs(str(tmp_path)).stems()
    assert len({stem.casefold() for stem in stems}) == 4
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "../../../etc/a.png")
    assert not any(".." in stem for stem in Inputs(str(tmp_path)).stems())
    with pytest.raises(InputError, match="contains no images"):
        Inputs(str(tmp_path / "nowhere"))


def test_reads_every_format_that_pillow_decodes(sample, tmp_path):
    """Except for animations, of which the first frame is used, the outputs are equal."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 1), np.uint8).repeat(3, 2)
    image = Image.fromarray(pixels)
    (tmp_path / "in").mkdir()
    for name in ("a.PNG", "b.bmp", "c.tiff", "d.gif", "e.ppm", "f.tga"):
        image.save(tmp_path / "in" / name)
    ramp = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    ramp.save(tmp_path / "in" / "g.tif")
    sample("softer", "--input", tmp_path / "in", "--out", tmp_path / "out", "--direction", "invert")
    files = sorted((tmp_path / "out").rglob("images/*.png"))
    assert len(files) == 7
    for file in files:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), 255 - pixels)
    lines = [
        json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    ]
    assert [line["input_file"] for line in lines if line.get("scaled")] == ["g.tif"]


def test_reports_what_cannot_be_read_and_does_the_rest(sample, tmp_path):
    folder = tmp_path / "in"
    names = sorted(write_images(folder, count=3))
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "shard.tar").write_bytes(b"no tar file" * 100)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(noise()).save(tmp_path / "elsewhere" / "z.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    flags = ["--input", folder, "--out", tmp_path / "out"]
    process = sample("softer", *flags, code=3)
    for name, reason in {
        "broken.png": "not an image",
        "dangling.png": "No such file",
        "folder.png": "it is a folder",
        "pipe.png": "not a regular file",
        "shard.tar": "not a readable tar file",
        "loop": "a link to a folder above it",
    }.items():
        assert any(name in line and reason in line for line in process.stderr.splitlines()), (
            name,
            process.stderr,
        )
    expected = sorted([*names, "linked/z.png"])
    assert [line["input_file"] for line in lines_of(tmp_path / "out")] == expected
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["images"], len(summary["failed"])) == (4, 5)
    # The job is complete: the same command does nothing.
    sample("softer", *flags)


@pytest.mark.parametrize("layout", ["folder", "webdataset"])
def test_accepts_names_that_are_not_utf8(sample, tmp_path, layout):
    folder = tmp_path / "in"
    folder.mkdir()
    content = io.BytesIO()
    Image.fromarray(noise()).save(content, "PNG")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(content.getvalue())
    (folder / os.fsdecode(b"broken\xff.png")).write_bytes(b"no image")
    with tarfile.open(folder / os.fsdecode(b"s\xff.tar"), "w") as archive:
        archive.add(folder / os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"in\xe9.png"))
    process = sample(
        *("softer", "--input", folder, "--out", tmp_path / "out", "--format", layout), code=3
    )
    assert r"broken\xff.png cannot be used: The file is not an image" in process.stderr
    lines = lines_of(tmp_path / "out")
    assert [line["input_file"] for line in lines] == [r"caf\xe9.png", r"s\xff/in\xe9.png"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_zip_archives(sample, tmp_path, compression):
    images = write_images(tmp_path / "in", count=5)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", compression) as archive:
        for name in images:
            archive.write(tmp_path / "in" / name, name.replace("/", "\\"))
        archive.writestr("__MACOSX/a/number 00.png", b"resource fork")
        archive.writestr("readme.txt", b"text")
    flags = ["--input", tmp_path / "photos.zip", "--out", tmp_path / "out"]
    sample("softer", *flags, "--direction", "invert")
    lines = lines_of(tmp_path / "out")
    assert [line["input_file"] for line in lines] == [f"photos/{name}" for name in sorted(images)]
    for line in lines:
        output = np.asarray(Image.open(tmp_path / "out" / line["file_name"]))
        pixels = images[line["input_file"].removeprefix("photos/")]
        np.testing.assert_array_equal(output, 255 - pixels)


def test_names_unreadable_archives_and_members(tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "x/a.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x/a.png", "a.png")
        archive.write(tmp_path / "x/a.png", "b.png")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.index(b"\x89PNG", data.index(b"b.png"))
    data[at + 20] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(data)
    (tmp_path / "damaged.zip").write_bytes(b"PK\x03\x04 nothing")
    inputs = Inputs(str(tmp_path))
    # The folder x has an image of the same name as the archive.
    assert inputs.names == ("damaged.zip", "x.zip/a.png", "x.zip/b.png", "x/a.png")
    assert inputs.read(1) == inputs.read(3)
    with pytest.raises(UnreadableInput, match="not a readable zip file"):
        inputs.read(0)
    with pytest.raises(UnreadableInput, match="CRC"):
        inputs.read(2)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_names_damaged_members_of_every_compression(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", compression) as archive:
        archive.writestr("a.png", bytes(range(256)) * 40)
        size = archive.getinfo("a.png").compress_size
    data = bytearray((tmp_path / "x.zip").read_bytes())
    start = 30 + len("a.png")
    # All of the compressed data but the header of its method.
    data[start + 10 : start + size] = bytes(255 for _ in range(size - 10))
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UnreadableInput):
        Inputs(str(tmp_path / "x.zip")).read(0)
