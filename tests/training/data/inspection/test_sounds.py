"""The report of `ganymede data` on sounds."""

import json
import shutil

import numpy as np
import pytest

from tests.support.command import assert_one_line_error, run
from tests.support.images import write_colored
from tests.support.sounds import sound_file, tone, write_tones
from training.data.inspection.sounds import report_on_sounds, scan_sounds
from training.data.sources import DataError, hold_sounds, open_splits
from training.data.sources.media import SOUNDS


def report(path):
    sources = open_splits(path, media=SOUNDS)
    return report_on_sounds(str(path), sources, scan_sounds(sources))


@pytest.fixture
def tones(tmp_path):
    return write_tones(tmp_path / "tones")


def test_clean_data_have_no_warnings(tones):
    content = report(tones).to_json()
    assert content["splits"] == {
        "train": {"sounds": 24, "by_class": {"high": 12, "low": 12}},
        "test": {"sounds": 6, "by_class": {"high": 3, "low": 3}},
    }
    assert content["rates"] == {8000: 30}
    assert content["channels"] == {1: 30}
    assert content["formats"] == {"WAV PCM_16": 30}
    seconds = content["seconds"]
    assert 0.05 <= seconds["shortest"] <= seconds["median"] <= seconds["longest"] <= 0.15
    assert 30 * seconds["shortest"] < seconds["total"] < 30 * seconds["longest"]
    assert content["warnings"] == []


def test_reports_what_is_wrong(tones):
    low, high = tones / "train" / "low", tones / "train" / "high"
    (low / "silent.wav").write_bytes(sound_file(np.full(500, 1e-4)))
    (low / "loud.wav").write_bytes(sound_file(np.clip(3 * tone(100, 0.1), -1, 1)))
    # A single sample at full scale is no clipping.
    (low / "peak.wav").write_bytes(sound_file(np.eye(1, 400)[0]))
    shutil.copy(low / "train-0.wav", low / "again.wav")
    shutil.copy(low / "train-1.wav", tones / "test" / "high" / "moved.wav")
    content = (high / "train-0.wav").read_bytes()
    (high / "short.wav").write_bytes(content[: len(content) // 2])
    (high / "empty.wav").write_bytes(b"")
    (high / "text.flac").write_bytes(b"not a sound")
    (high / "notes.txt").write_text("x")
    found = report(tones)
    content = found.to_json()
    assert content["silent"] == ["train/low/silent.wav"]
    assert content["clipped"] == ["train/low/loud.wav"]
    assert content["exact_duplicates"] == [
        ["train/low/again.wav", "train/low/train-0.wav"],
        ["train/low/train-1.wav", "test/high/moved.wav"],
    ]
    assert content["duplicates_across_splits"] == content["exact_duplicates"][1:]
    assert content["duplicates_across_classes"] == content["exact_duplicates"][1:]
    assert sorted(content["corrupt"]) == [
        f"train/high/{name}" for name in ("empty.wav", "short.wav", "text.flac")
    ]
    assert content["sounds"] == 30 + 5
    text = "\n".join(found.warnings())
    for expected in (
        "train/low/silent.wav is silent",
        "train/low/loud.wav has samples clipped at full scale",
        "exact duplicates: 2",
        "skipped: train/high/short.wav: is cut off",
        "ignored: train/high/notes.txt: is not a sound",
    ):
        assert expected in text, text


def test_reports_rates_channels_and_a_length_for_training(tmp_path):
    for i, (rate, seconds) in enumerate([(8000, 0.5), (8000, 0.5), (16_000, 0.25)]):
        (tmp_path / f"{i}.flac").write_bytes(sound_file(tone(300 + i, seconds, rate), rate, "FLAC"))
    stereo = np.stack([tone(100, 0.5), tone(200, 0.5)], 1)
    (tmp_path / "stereo.wav").write_bytes(sound_file(stereo))
    rows = dict(report(tmp_path).properties())
    assert rows["rate"] == "8,000 Hz 3, 16,000 Hz 1"
    assert rows["channels"] == "1 channel 3, 2 channels 1"
    assert rows["shortest, longest"].startswith("0.25 s (2.flac), 0.5 s (")
    # 4,000 samples fit into 4,096.
    assert "samples: 4096} is 0.512 s; 0 of the sounds" in rows["to train"]


def test_only_damaged_sounds_are_an_error(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"none of 1 sounds .* first: a\.wav: cannot be decoded"):
        report(tmp_path)


def test_sounds_are_recognized(tones, tmp_path):
    assert hold_sounds(tones)
    assert not hold_sounds(write_colored(tmp_path / "images", classes=2, count=4))
    assert not hold_sounds(tmp_path / "nothing")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    assert not hold_sounds(tmp_path / "text")


def test_command_reports_a_folder_and_a_zip(tones, tmp_path):
    result = run("data", tones)
    assert (result.returncode, result.stderr.strip()) == (0, "")
    assert "30 sounds in 2 classes, 2 splits" in result.stdout
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tones)
    content = json.loads(
        run("data", archive, "--split", "test", "--classes", "low", "--json").stdout
    )
    assert (content["sounds"], content["classes"]) == (3, ["low"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "val"], "has no split 'val'"),
        (["--classes", "x"], "no class folder 'x'"),
        (["--out", "prepared"], "--out is for images, and tones holds sounds"),
        (["--sheet", "sheet.png"], "--sheet is for images"),
    ],
)
def test_bad_options(tones, tmp_path, arguments, message):
    assert_one_line_error(run("data", "tones", *arguments, cwd=tmp_path), 2, message)
