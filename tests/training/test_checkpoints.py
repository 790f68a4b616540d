import pickle

import pytest
import torch

from training.checkpoints import Checkpoint, CheckpointError

CHECKPOINT = Checkpoint(
    turn=3,
    images=192,
    seconds=1.5,
    device="test",
    code_revision="test",
    class_names=["a", "b"],
    game={"networks": {"generator": {"weight": torch.arange(4.0)}}},
)


def test_save_and_load_round_trip(tmp_path):
    path = tmp_path / "checkpoint.pt"
    CHECKPOINT.save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.turn, loaded.images, loaded.seconds) == (3, 192, 1.5)
    weight = loaded.game["networks"]["generator"]["weight"]
    torch.testing.assert_close(weight, torch.arange(4.0), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_failed_save_keeps_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    CHECKPOINT.save(path)
    before = path.read_bytes()
    unsavable = Checkpoint(4, 256, 2.0, "test", "test", [], {"network": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        unsavable.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class FileCreator:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_does_not_execute_pickled_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "game": FileCreator(tmp_path / "executed")}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        Checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_rejects_files_that_are_not_checkpoints(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        Checkpoint.load(path)


def test_damaged_checkpoint_names_the_one_to_go_back_to(tmp_path):
    path, best = tmp_path / "checkpoint.pt", tmp_path / "best.pt"
    CHECKPOINT.save(path)
    whole = path.read_bytes()
    position = whole.index(torch.arange(4.0).numpy().tobytes())
    changed = bytearray(whole)
    changed[position + 5] ^= 1
    for content in (whole[: len(whole) // 2], bytes(changed), b""):
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"checkpoint\.pt is damaged.*no other checkpoint"
        ):
            Checkpoint.load(path)
        best.write_bytes(whole[:99])
        with pytest.raises(CheckpointError, match="no other checkpoint"):
            Checkpoint.load(path)
        CHECKPOINT.save(best)
        with pytest.raises(CheckpointError, match=r"go back to .*best\.pt: cp .*best\.pt .*/check"):
            Checkpoint.load(path)
        best.unlink()
