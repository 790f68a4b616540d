from pathlib import Path

import numpy as np
import pytest
import torch

from training.latent.inversion.model import open_generator
from training.latent.inversion.passes import invert_by_passes, psnr, squared_errors
from training.latent.inversion.training import (
    CHECKPOINT_FILE,
    LOG_FILE,
    SETTINGS_FILE,
    EncoderSettings,
    EncoderTraining,
    EncoderTrainingError,
)

SETTINGS = EncoderSettings(batch=16, passes=2, width=16, hidden=64, learning_rate=3e-3)


def _open(models: Path, out: Path, name: str = "painted", settings=SETTINGS) -> EncoderTraining:
    return EncoderTraining(open_generator(name, models), settings, out)


@pytest.mark.parametrize("name", ["painted", "cut"])
def test_learns_to_invert_samples(name: str, drawn_repository: Path, tmp_path: Path) -> None:
    training = _open(drawn_repository, tmp_path / "run", name)
    training.train(16 * 20)

    generator = training.generator
    seeds = range(40)
    targets = generator.pixels(*generator.draw(seeds))
    classes = generator.model.classes_of(seeds) if name == "cut" else None

    def encode(feeds):
        with torch.no_grad():
            inputs = {key: torch.from_numpy(feed) for key, feed in feeds.items()}
            return training.average(**inputs)[0].numpy()

    history = invert_by_passes(generator, encode, training.start, targets, 2, classes)
    values = [psnr(squared_errors(each.pixels, targets)).mean() for each in history]
    # The start is no candidate after a pass, so every gain is that of the encoder.
    assert values[2] >= values[1] > values[0]
    assert values[2] > values[0] + 0.2


def test_a_continued_training_equals_an_uninterrupted_one(
    drawn_repository: Path, tmp_path: Path
) -> None:
    whole = _open(drawn_repository, tmp_path / "whole")
    whole.train(48)

    class Interrupted(Exception):
        pass

    def interrupt(done: int, _total: int, _note: str) -> None:
        if done == 32:
            first._save({})
            raise Interrupted

    first = _open(drawn_repository, tmp_path / "parts")
    with pytest.raises(Interrupted):
        first.train(48, interrupt)
    second = _open(drawn_repository, tmp_path / "parts")
    assert second.images == 32
    second.train(48)

    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[name]), name
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(drawn_repository: Path, tmp_path: Path) -> None:
    _open(drawn_repository, tmp_path / "run").train(32)
    content = (tmp_path / "run" / CHECKPOINT_FILE).read_bytes()
    _open(drawn_repository, tmp_path / "run").train(32)
    assert (tmp_path / "run" / CHECKPOINT_FILE).read_bytes() == content
    assert len((tmp_path / "run" / LOG_FILE).read_text().splitlines()) == 1


def test_refuses_to_continue_with_other_settings(drawn_repository: Path, tmp_path: Path) -> None:
    _open(drawn_repository, tmp_path / "run").train(16)
    other = EncoderSettings(batch=8, passes=2, width=16, hidden=64, learning_rate=3e-3)
    with pytest.raises(EncoderTrainingError, match="another batch"):
        _open(drawn_repository, tmp_path / "run", settings=other)
    with pytest.raises(EncoderTrainingError, match="another model"):
        _open(drawn_repository, tmp_path / "run", "cut")


def test_refuses_a_folder_with_other_files(drawn_repository: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EncoderTrainingError, match="choose another --out"):
        _open(drawn_repository, tmp_path)
    with pytest.raises(EncoderTrainingError, match=r"notes\.txt is a file"):
        _open(drawn_repository, tmp_path / "notes.txt")


def test_refuses_damaged_settings(drawn_repository: Path, tmp_path: Path) -> None:
    for text in ("damaged", "[]"):
        (tmp_path / SETTINGS_FILE).write_text(text)
        with pytest.raises(EncoderTrainingError, match="is damaged"):
            _open(drawn_repository, tmp_path)


def test_refuses_a_damaged_checkpoint(drawn_repository: Path, tmp_path: Path) -> None:
    _open(drawn_repository, tmp_path / "run").train(16)
    (tmp_path / "run" / CHECKPOINT_FILE).write_bytes(b"damaged")
    with pytest.raises(EncoderTrainingError, match="is damaged"):
        _open(drawn_repository, tmp_path / "run")


def test_stops_when_the_losses_are_not_finite(drawn_repository: Path, tmp_path: Path) -> None:
    training = _open(drawn_repository, tmp_path / "run")
    with torch.no_grad():
        training.encoder.correction.weight.fill_(np.inf)
    with pytest.raises(EncoderTrainingError, match="--learning-rate"):
        training.train(16)
    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()
