"""Malicious and corrupt files.

Nothing is executed, memory use is bounded, and every failure is a one-line message.
"""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.checkpoint_layouts.onnx_graph import write_graph
from tests.support.checkpoints import (
    PersistentObject,
    nvidia_modules,
    pickled_network,
    random_tensors,
    write_nvidia_pickle,
)
from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.onnx.conversion import convert_graph
from training.importers.onnx.ports import GraphOptions
from training.importers.options import UserOptions
from training.importers.reading.files import read_file
from training.importers.reading.weights import find_networks
from training.importers.recognition import match_formats, select_candidate

MEMORY = 4 * 2**30


@pytest.fixture(autouse=True)
def _memory_limit():
    """Limit the memory for a file, so that a test fails instead of exhausting the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read(path):
    """Read a file in the same way as `ganymede import`, without writing anything."""
    if path.suffix == ".onnx":
        return convert_graph(path, GraphOptions())
    return select_candidate(match_formats(find_networks(read_file(path)), UserOptions()), None)


def assert_rejected(path, message="", error_type=ModelImportError):
    with pytest.raises(error_type, match=message or None) as raised:
        read(path)
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


class Call:
    """Calls a function when it is unpickled by an unpickler that imports names."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(canary):
    """Yield objects that create the file `canary` when they are unpickled by names."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    yield "system", Call(os.system, command)
    yield "eval", Call(eval, code)
    yield "exec", Call(exec, code)
    yield "mkdir", Call(os.mkdir, str(canary))
    yield "getattr", Call(getattr, Call(__import__, "os"), "system")
    # Nested in names that are allowed.
    yield "system", OrderedDict(a=[{"b": (Call(os.system, command),)}])
    yield "eval", {Call(eval, code): 1}
    yield "system", PersistentObject("Generator", {"_modules": {"x": Call(os.system, command)}})


@pytest.mark.parametrize("suffix", ["pkl", "pt", "ckpt"])
def test_never_calls_functions_of_a_pickle(tmp_path, suffix):
    canary = tmp_path / "ran"
    for i, (name, attack) in enumerate(attacks(canary)):
        path = tmp_path / f"{i}.{suffix}"
        with nvidia_modules():
            if suffix == "pkl":
                path.write_bytes(pickle.dumps({"G_ema": attack}, 2 + i % 4))
            else:
                # As a ZIP archive, and in the format of PyTorch before 1.6.
                torch.save({"g": attack}, path, _use_new_zipfile_serialization=suffix == "pt")
        message = assert_rejected(path, error_type=UnsafeFileError)
        assert name in message or "_reconstruct_persistent_obj" in message
        assert not canary.exists()


@pytest.mark.parametrize(
    "code",
    [
        # Names with dots refer to attributes, also of allowed names.
        b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.fromkeys.__doc__\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x0bhub.os.popen\x93\x8c\x02id\x85R.",
        b"\x80\x04\x8c\x10torch.nn.modules\x8c\x0amodule.sys\x93.",
        b"\x80\x02ctorch.nn.modules.module\nwarnings.sys.exit\nK\x00\x85R.",
        # A number in the registry of extensions.
        b"\x80\x02\x82\x01.",
        b"\x80\x02c__builtin__\n__import__\n(S'os'\ntR.",
        b"\x80\x02cbuiltins\nset\n.)R}b0cos\nsystem\n.",
    ],
)
def test_rejects_indirect_names(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(code)
    assert_rejected(tmp_path / "x.pkl")


def test_never_executes_source_in_an_nvidia_pickle(tmp_path):
    canary = tmp_path / "ran"
    source = f"open({str(canary)!r}, 'w').close()"
    tree = pickled_network("Generator", {"mapping.fc0.weight": torch.zeros(2, 2)}, source=source)
    write_nvidia_pickle(tmp_path / "x.pkl", {"G_ema": tree})
    assert_rejected(tmp_path / "x.pkl", "matches no known format")
    assert not canary.exists()


def shared(levels, width, leaf):
    """Return a small tree whose levels refer to the next one `width` times."""
    tree = leaf
    for _ in range(levels):
        tree = {f"k{i}": tree for i in range(width)}
    return tree


def test_rejects_exponential_references(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(shared(4, 200, {"a": 1}), 4))
    assert_rejected(tmp_path / "x.pkl", "entries that contain each other")
    torch.save(shared(4, 200, {"a": 1}), tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth", "entries that contain each other")
    many = {
        f"net{i}": {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2)} for i in range(99)
    }
    torch.save(many, tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth", "99 networks")
    module = PersistentObject("Layer", {"_modules": OrderedDict()})
    for _ in range(40):
        module = PersistentObject("Layer", {"_modules": OrderedDict(a=module, b=module)})
    write_nvidia_pickle(tmp_path / "x.pkl", {"G_ema": module})
    assert_rejected(tmp_path / "x.pkl", "nested deeper")


def test_rejects_deep_nesting_and_long_names(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".")
    assert_rejected(tmp_path / "x.pkl", "no network")
    name = "a." * 200_000 + "weight"
    torch.save({name: torch.zeros(2, 2)}, tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth", "characters, at most 500 are")
    torch.save({"x." * 200 + "weight": torch.zeros(2, 2)}, tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth")


def test_rejects_tensors_with_missing_values(tmp_path):
    one = torch.zeros(1)
    wide = {"main.0.weight": one.expand(300_000, 300_000), "main.1.bias": one}
    torch.save(wide, tmp_path / "x.pth")
    assert_rejected(
        tmp_path / "x.pth", "declares 90,000,000,000 values, but the file contains fewer"
    )
    torch.save({"a.weight": torch.zeros(3, 3).to_sparse(), "b.weight": one}, tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth", "is sparse, quantized or not on the CPU")
    torch.save({"a.weight": torch.zeros(2, 2, device="meta"), "b.w": one}, tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth")
    # A header that declares an absurd size.
    header = {"a.w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert_rejected(tmp_path / "x.safetensors", "safetensors")
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{" + bytes(100))
    assert_rejected(tmp_path / "x.safetensors", "safetensors")


def test_rejects_absurd_storage_sizes(tmp_path):
    stream = io.BytesIO()
    torch.save({"a.weight": torch.zeros(7), "b.weight": torch.zeros(7)}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    # The count of 7 values becomes 2⁴⁰.
    members[name] = members[name].replace(
        b"K\x07t", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"t"
    )
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for each, value in members.items():
            archive.writestr(each, value)
    assert_rejected(tmp_path / "x.pth")
    legacy = io.BytesIO()
    torch.save({"a.weight": torch.zeros(7)}, legacy, _use_new_zipfile_serialization=False)
    large = b"\x8a\x06" + (2**40).to_bytes(6, "little")
    (tmp_path / "x.pth").write_bytes(legacy.getvalue().replace(b"K\x07N", large + b"N"))
    assert_rejected(tmp_path / "x.pth")


def test_rejects_compressed_archives(tmp_path):
    torch.save({"a.weight": torch.zeros(9), "b.weight": torch.zeros(9)}, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            # 200 MB of zeros are compressed to about 200 kB.
            bad.writestr(name, bytes(2 * 10**8) if name.endswith("data/0") else good.read(name))
    assert_rejected(tmp_path / "x.pth", "compressed")
    assert (tmp_path / "x.pth").stat().st_size < 10**6
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as odd:
        odd.writestr("../../data.pkl", b"\x80\x02}.")
        odd.writestr("/etc/passwd", b"")
    assert_rejected(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as empty:
        empty.writestr("readme.txt", b"hello")
    assert_rejected(tmp_path / "x.pth", r"no data\.pkl")


@pytest.mark.parametrize("layers", [30, 200])
def test_rejects_layers_that_imply_huge_images(tmp_path, layers):
    shapes = {f"main.{2 * i}.weight": (1, 1, 4, 4) for i in range(layers)}
    torch.save(random_tensors(shapes), tmp_path / "x.pth")
    assert_rejected(tmp_path / "x.pth", "are supported")


def test_rejects_known_names_with_wrong_shapes(tmp_path):
    for i, names in enumerate(
        [
            [
                *("conv_first", "body.0.rdb1.conv1", "body.0.rdb3.conv5"),
                *("conv_body", "conv_hr", "conv_last"),
            ],
            ["block_a.0.1", "block_b.0.1", "block_c.1.layers.0.1", "block_e.2.1", "out_layer.0"],
            ["body.0", "body.1", "body.2"],
            ["model.0", "model.1.model.1"],
        ]
    ):  # fmt: skip
        path = tmp_path / f"{i}.pth"
        tensors = {
            f"{name}.{part}": torch.zeros(3) for name in names for part in ("weight", "bias")
        }
        torch.save(tensors, path)
        assert_rejected(path)


def write_valid_files(folder):
    """Write a small valid file of each kind; in small files, a flipped bit is likely to matter."""
    dcgan = random_tensors(
        {"0.weight": (4, 3, 4, 4), "3.weight": (3, 2, 4, 4), "6.weight": (2, 1, 4, 4)}, scale=0.2
    )
    torch.save(dcgan, folder / "a.pt")
    torch.save(
        {"g": dcgan, "n": np.float32(1)}, folder / "b.ckpt", _use_new_zipfile_serialization=False
    )
    save_file(dcgan, folder / "c.safetensors")
    write_nvidia_pickle(
        folder / "d.pkl", {"G_ema": pickled_network("Generator", {"a.b.weight": torch.zeros(2, 3)})}
    )
    write_graph(folder / "e.onnx")


@pytest.mark.parametrize("name", ["a.pt", "b.ckpt", "c.safetensors", "d.pkl", "e.onnx"])
def test_corrupt_files_give_one_line_errors(tmp_path, name):
    write_valid_files(tmp_path)
    valid = (tmp_path / name).read_bytes()
    path = tmp_path / f"corrupt{(tmp_path / name).suffix}"
    draw = np.random.default_rng(sum(valid[:64]))
    failures = []
    for i in range(150):
        corrupt = bytearray(valid)
        if i % 3 == 0:
            corrupt = corrupt[: draw.integers(0, len(valid))]
        elif i % 3 == 1:
            at = draw.integers(0, len(valid))
            corrupt[at:at] = corrupt[draw.integers(0, len(valid)) :][: draw.integers(1, 40)]
        for at in draw.integers(0, max(len(corrupt), 1), draw.integers(0, 4)):
            if corrupt:
                corrupt[at] ^= 1 << draw.integers(0, 8)
        path.write_bytes(corrupt)
        try:
            read(path)
        except ModelImportError as error:
            failures.append(str(error))
    assert len(failures) > 50
    assert not any("\n" in failure for failure in failures)
