"""Files of other frameworks, and damaged files: the message says what they are and what to do."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from training.importers.errors import ModelImportError
from training.importers.reading.files import read_file

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(64)


def error(path):
    with pytest.raises(ModelImportError) as raised:
        read_file(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_names_the_converter_of_keras_files(tmp_path):
    (tmp_path / "g.h5").write_bytes(HDF5)
    assert "python -m tf2onnx.convert --keras g.h5 --output g.onnx" in error(tmp_path / "g.h5")
    with zipfile.ZipFile(tmp_path / "g.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    message = error(tmp_path / "g.keras")
    assert "is a Keras model" in message
    assert "tf2onnx.convert --saved-model saved_model --output g.onnx" in message


@pytest.mark.parametrize("file", ["", "saved_model.pb"])
def test_names_the_converter_of_saved_models(tmp_path, file):
    folder = tmp_path / "dcgan"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + bytes(90))
    message = error(folder / file)
    assert f"--saved-model {folder} --output dcgan.onnx" in message


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("graph-model", "python -m tf2onnx.convert --tfjs"),
        ("layers-model", "tensorflowjs_converter --input_format tfjs_layers_model"),
    ],
)
@pytest.mark.parametrize("file", ["", "model.json", "group1-shard1of1.bin"])
def test_names_the_converter_of_tensorflow_js(tmp_path, kind, command, file):
    folder = tmp_path / "gan"
    folder.mkdir()
    content = {"format": kind, "modelTopology": {}, "weightsManifest": []}
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "group1-shard1of1.bin").write_bytes(bytes(range(40, 120)))
    message = error(folder / file)
    assert command in message
    assert "gan.onnx" in message


def test_names_other_files_that_are_no_checkpoints(tmp_path):
    contents = {
        "empty.pth": (b"", "is empty"),
        "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "page.pth": (b"<!DOCTYPE html><html>not found</html>", "is a web page"),
        "g.tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "--tflite g.tflite"),
        "model.ckpt-9.index": (b"\0\1\2" * 30, "--checkpoint model.ckpt-9.meta"),
    }
    for name, (content, expected) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert expected in error(tmp_path / name)
    (tmp_path / "folder").mkdir()
    torch.save({"a": torch.ones(2)}, tmp_path / "folder" / "g.pth")
    assert "is a folder; expected the file of a checkpoint; it contains g.pth" in error(
        tmp_path / "folder"
    )


def test_damaged_files_say_that_they_are_damaged(tmp_path):
    tensors = {"a.weight": torch.arange(999.0)}
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "g.safetensors")
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        assert "a.weight" in read_file(path)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        assert "damaged" in error(path)
        path.write_bytes(whole)
    # PyTorch reads a changed value without an error.
    changed = bytearray((tmp_path / "zip.pth").read_bytes())
    changed[changed.index(torch.arange(999.0).numpy().tobytes()) + 402] ^= 64
    (tmp_path / "zip.pth").write_bytes(changed)
    assert "the checksum of its member" in error(tmp_path / "zip.pth")
