"""Files that were made to do harm, and files that were broken on the way: nothing runs, nothing
hangs, memory has a bound, and every failure is one line that a person can read.
"""

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from safetensors.torch import save_file

from tests.support.checkpoints import Persistent, drawn, nested, nvidias_modules, write_nvidia
from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.formats.base import UserOptions
from training.importers.onnx.generators import convert_graph
from training.importers.onnx.ports import GraphOptions
from training.importers.reading.files import read_file
from training.importers.reading.weights import networks
from training.importers.recognition import match_formats, select_candidate

MEMORY = 4 * 2**30
SECONDS = 10


@pytest.fixture(autouse=True)
def _bounded():
    """As much memory as the process has, and some for the file; more is an error, not a machine
    that stands still.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    start = time.process_time()
    yield
    took = time.process_time() - start
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert took < SECONDS


def taken(path):
    """What `ganymede import` does with a file before it writes anything."""
    if path.suffix == ".onnx":
        return convert_graph(path, GraphOptions())
    return select_candidate(match_formats(networks(read_file(path)), UserOptions()), None)


def refused(path, says="", kind=ModelImportError):
    with pytest.raises(kind, match=says or None) as raised:
        taken(path)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


class Runs:
    """Calls something when it is unpickled by what imports names."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touching(canary):
    """Ways to run a command or an expression, each of which would make the canary."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    yield "system", Runs(os.system, command)
    yield "eval", Runs(eval, code)
    yield "exec", Runs(exec, code)
    yield "mkdir", Runs(os.mkdir, str(canary))
    yield "getattr", Runs(getattr, Runs(__import__, "os"), "system")
    # Within what is known: arguments of arrays, of tensors, of modules.
    yield "system", OrderedDict(a=[{"b": (Runs(os.system, command),)}])
    yield "eval", {Runs(eval, code): 1}
    yield "system", Persistent("Generator", {"_modules": {"x": Runs(os.system, command)}})


@pytest.mark.parametrize("suffix", ["pkl", "pt", "ckpt"])
def test_nothing_that_a_pickle_calls_is_called(tmp_path, suffix):
    canary = tmp_path / "ran"
    for i, (name, thing) in enumerate(touching(canary)):
        path = tmp_path / f"{i}.{suffix}"
        with nvidias_modules():
            if suffix == "pkl":
                path.write_bytes(pickle.dumps({"G_ema": thing}, 2 + i % 4))
            else:
                # In a ZIP archive, and as before PyTorch 1.6.
                torch.save({"g": thing}, path, _use_new_zipfile_serialization=suffix == "pt")
        message = refused(path, kind=UnsafeFileError)
        assert name in message or "_reconstruct_persistent_obj" in message
        assert not canary.exists()


@pytest.mark.parametrize(
    "code",
    [
        # Names with dots reach into what a module holds; those of the list too.
        b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.fromkeys.__doc__\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x0bhub.os.popen\x93\x8c\x02id\x85R.",
        b"\x80\x04\x8c\x10torch.nn.modules\x8c\x0amodule.sys\x93.",
        b"\x80\x02ctorch.nn.modules.module\nwarnings.sys.exit\nK\x00\x85R.",
        # By number, from the registry of extensions.
        b"\x80\x02\x82\x01.",
        b"\x80\x02c__builtin__\n__import__\n(S'os'\ntR.",
        b"\x80\x02cbuiltins\nset\n.)R}b0cos\nsystem\n.",
    ],
)
def test_names_by_other_ways_are_not_reached(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(code)
    refused(tmp_path / "x.pkl")


def test_the_source_within_an_nvidia_pickle_is_left_unread(tmp_path):
    canary = tmp_path / "ran"
    source = f"open({str(canary)!r}, 'w').close()"
    tree = nested("Generator", {"mapping.fc0.weight": torch.zeros(2, 2)}, source=source)
    write_nvidia(tmp_path / "x.pkl", {"G_ema": tree})
    refused(tmp_path / "x.pkl", "no format that is known")
    assert not canary.exists()


def shared(levels, width, leaf):
    """Each level names the next one `width` times: few bytes, and no end to walk."""
    tree = leaf
    for _ in range(levels):
        tree = {f"k{i}": tree for i in range(width)}
    return tree


def test_one_thing_in_a_thousand_places_ends(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(shared(4, 200, {"a": 1}), 4))
    refused(tmp_path / "x.pkl", "without end")
    torch.save(shared(4, 200, {"a": 1}), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "without end")
    many = {
        f"net{i}": {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2)} for i in range(99)
    }
    torch.save(many, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "99 networks")
    module = Persistent("Layer", {"_modules": OrderedDict()})
    for _ in range(40):
        module = Persistent("Layer", {"_modules": OrderedDict(a=module, b=module)})
    write_nvidia(tmp_path / "x.pkl", {"G_ema": module})
    refused(tmp_path / "x.pkl", "without end")


def test_deep_nesting_and_long_names_end(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".")
    refused(tmp_path / "x.pkl", "no network")
    name = "a." * 200_000 + "weight"
    torch.save({name: torch.zeros(2, 2)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "letters long")
    torch.save({"x." * 200 + "weight": torch.zeros(2, 2)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")


def test_tensors_that_say_more_than_they_hold_are_refused(tmp_path):
    one = torch.zeros(1)
    wide = {"main.0.weight": one.expand(300_000, 300_000), "main.1.bias": one}
    torch.save(wide, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "says 90,000,000,000 values, and fewer are in the file")
    torch.save({"a.weight": torch.zeros(3, 3).to_sparse(), "b.weight": one}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "no plain tensor")
    torch.save({"a.weight": torch.zeros(2, 2, device="meta"), "b.w": one}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")
    # A header that says a size that nothing has.
    header = {"a.w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    refused(tmp_path / "x.safetensors", "safetensors")
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{" + bytes(100))
    refused(tmp_path / "x.safetensors", "safetensors")


def test_storages_of_absurd_size_are_refused(tmp_path):
    stream = io.BytesIO()
    torch.save({"a.weight": torch.zeros(7), "b.weight": torch.zeros(7)}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    # Seven values, as one byte, become 2⁴⁰ of them.
    members[name] = members[name].replace(
        b"K\x07t", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"t"
    )
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for each, value in members.items():
            archive.writestr(each, value)
    refused(tmp_path / "x.pth")
    legacy = io.BytesIO()
    torch.save({"a.weight": torch.zeros(7)}, legacy, _use_new_zipfile_serialization=False)
    large = b"\x8a\x06" + (2**40).to_bytes(6, "little")
    (tmp_path / "x.pth").write_bytes(legacy.getvalue().replace(b"K\x07N", large + b"N"))
    refused(tmp_path / "x.pth")


def test_archives_that_unpack_to_more_are_refused(tmp_path):
    torch.save({"a.weight": torch.zeros(9), "b.weight": torch.zeros(9)}, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            # 200 MB of zeros are some 200 kB.
            bad.writestr(name, bytes(2 * 10**8) if name.endswith("data/0") else good.read(name))
    refused(tmp_path / "x.pth", "compressed")
    assert (tmp_path / "x.pth").stat().st_size < 10**6
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as odd:
        odd.writestr("../../data.pkl", b"\x80\x02}.")
        odd.writestr("/etc/passwd", b"")
    refused(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as empty:
        empty.writestr("readme.txt", b"hello")
    refused(tmp_path / "x.pth", r"no data\.pkl")


@pytest.mark.parametrize("layers", [30, 200])
def test_layers_that_would_make_a_picture_of_any_size_are_refused(tmp_path, layers):
    shapes = {f"main.{2 * i}.weight": (1, 1, 4, 4) for i in range(layers)}
    torch.save(drawn(shapes), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "not served")


def test_names_of_a_format_on_tensors_of_other_shapes_are_told(tmp_path):
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
        refused(path)


def graph_file(path):
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    gen (float[N,6] z) => (float[N,3,5,5] made) {
        hidden = MatMul (z, w)
        shaped = Reshape (hidden, shape)
        convolved = Conv <kernel_shape = [1, 1]> (shaped, c)
        made = Tanh (convolved)
    }""")
    rng = np.random.default_rng(0)
    for name, value in {
        "w": rng.normal(size=(6, 75)).astype(np.float32),
        "c": rng.normal(size=(3, 3, 1, 1)).astype(np.float32),
        "shape": np.array([-1, 3, 5, 5]),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, path)


def originals(folder):
    """A good file of each kind, small, so that a flipped bit meets what matters."""
    dcgan = drawn(
        {"0.weight": (4, 3, 4, 4), "3.weight": (3, 2, 4, 4), "6.weight": (2, 1, 4, 4)}, scale=0.2
    )
    torch.save(dcgan, folder / "a.pt")
    torch.save(
        {"g": dcgan, "n": np.float32(1)}, folder / "b.ckpt", _use_new_zipfile_serialization=False
    )
    save_file(dcgan, folder / "c.safetensors")
    write_nvidia(
        folder / "d.pkl", {"G_ema": nested("Generator", {"a.b.weight": torch.zeros(2, 3)})}
    )
    graph_file(folder / "e.onnx")


@pytest.mark.parametrize("name", ["a.pt", "b.ckpt", "c.safetensors", "d.pkl", "e.onnx"])
def test_broken_files_are_read_or_fail_in_one_line(tmp_path, name):
    originals(tmp_path)
    whole = (tmp_path / name).read_bytes()
    path = tmp_path / f"broken{(tmp_path / name).suffix}"
    draw = np.random.default_rng(sum(whole[:64]))
    # In an archive or a graph most bytes are numbers of tensors; a pickle is soon through.
    failures = []
    for i in range(150):
        broken = bytearray(whole)
        if i % 3 == 0:
            broken = broken[: draw.integers(0, len(whole))]
        elif i % 3 == 1:
            at = draw.integers(0, len(whole))
            broken[at:at] = broken[draw.integers(0, len(whole)) :][: draw.integers(1, 40)]
        for at in draw.integers(0, max(len(broken), 1), draw.integers(0, 4)):
            if broken:
                broken[at] ^= 1 << draw.integers(0, 8)
        path.write_bytes(broken)
        try:
            taken(path)
        except ModelImportError as error:
            failures.append(str(error))
    assert len(failures) > 50
    assert not any("\n" in failure for failure in failures)
