"""Graphs that somebody else exported: wrapped, and held against the same computation in NumPy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from service.runtime.latent import seeds
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.errors import ImportOptionError, ModelImportError, UnsafeFileError
from training.importers.formats.base import UserOptions
from training.importers.import_model import ImportTarget, import_model
from training.importers.onnx.generators import OnnxFormat, convert_graph, describe_graph
from training.importers.onnx.ports import GraphOptions, parse_graph_options

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)
rng = np.random.default_rng(0)


def written(folder, text, *, opset=17, domains="", **weights):
    """A graph in ONNX's own notation, with weights by name."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n'
    model = parser.parse_model(head + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = folder / "gen.onnx"
    onnx.save(model, path)
    return path


def normal(*shape, scale=1.0):
    return (rng.normal(size=shape) * scale).astype(np.float32)


def served(path, folder, *maps, said=None, **options):
    converted = convert_graph(path, GraphOptions(maps, said=said or UserOptions(), **options))
    made = import_model(path, OnnxFormat(), converted, ImportTarget(folder / "models", "m"))
    return converted, Model(made, Provider.CPU, PLAN)


def bytes_of(values, low=-1.0, high=1.0):
    return np.floor(((values - low) * 255 / (high - low)).clip(0, 255) + 0.5).astype(int)


def same(made, expected):
    """Equal but for steps of rounding, and not by being of one colour."""
    assert expected.std() > 20
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= 1


SEEDS = [0, 5, 9]
FROM_Z = """
gen (float[N,6] input_0, float[N,3] labels) => (float[N,3,4,5] output_0, float[N,60] hidden) {
    joined = Concat <axis = 1> (input_0, labels)
    hidden = MatMul (joined, w)
    made = Reshape (hidden, shape)
    output_0 = Tanh (made)
}"""


def test_a_graph_from_z_and_a_one_hot_class_is_wrapped_by_its_maps(tmp_path):
    w = normal(9, 60)
    path = written(tmp_path, FROM_Z, w=w, shape=np.array([-1, 3, 4, 5]))
    _, model = served(
        path,
        tmp_path,
        "z=input_0",
        "class=labels",
        "pixels=output_0",
        range=(-1, 1),
        said=UserOptions(class_names=("a", "b", "c")),
    )
    manifest = model.manifest
    assert manifest.classes == ("a", "b", "c")
    assert (manifest.latent.dimension, manifest.image.height, manifest.image.width) == (6, 4, 5)
    assert manifest.provenance.format == "onnx"
    assert manifest.provenance.source_file == "gen.onnx"
    z = seeds.draw(SEEDS, 6)
    joined = np.concatenate([z, np.eye(3, dtype=np.float32)[[2, 0, 1]]], 1)
    expected = bytes_of(np.tanh(joined @ w).reshape(-1, 3, 4, 5).transpose(0, 2, 3, 1))
    same(model.generate(SEEDS, [2, 0, 1]), expected)
    blended = model.run("generator", {"z": z[:1], "class_weights": np.float32([[0.5, 0.5, 0]])})
    mixed = np.concatenate([z[:1], [[0.5, 0.5, 0]]], 1)
    same(blended["pixels"], bytes_of(np.tanh(mixed @ w).reshape(1, 3, 4, 5).transpose(0, 2, 3, 1)))


def test_half_precision_an_index_of_its_own_axis_and_bytes_that_come_out(tmp_path):
    text = """
    gen (float16[N,6,1,1] noise, int32[N,1] label) => (uint8[N,5,5,1] image) {
        flat = Flatten <axis = 1> (noise)
        squeezed = Reshape (label, column)
        embedded = Gather (table, squeezed)
        joined = Mul (flat, embedded)
        bright = MatMul (joined, w)
        part = Sigmoid (bright)
        whole = Mul (part, levels)
        shaped = Reshape (whole, shape)
        image = Cast <to = 2> (shaped)
    }"""
    table, w = normal(5, 6).astype(np.float16), normal(6, 25).astype(np.float16)
    shape, column = np.array([-1, 5, 5, 1]), np.array([-1])
    path = written(
        tmp_path, text, table=table, w=w, shape=shape, column=column, levels=np.float16(255)
    )
    with pytest.raises(ImportOptionError, match="--classes"):
        convert_graph(path, GraphOptions())
    # There is one way only to understand it, so nothing has to be mapped.
    converted, model = served(path, tmp_path, said=UserOptions(classes=5, latent="unit"))
    assert dict(converted.details)["class_index"] == "label int32[?, 1]"
    assert model.manifest.latent.distribution == "uniform"
    z = (seeds.draw(SEEDS, 6, "uniform") + 1) / 2
    bright = z * table[[1, 4, 2]].astype(float) @ w.astype(float)
    expected = (255 / (1 + np.exp(-bright))).reshape(-1, 5, 5, 1).astype(int)
    assert np.abs(model.generate(SEEDS, [1, 4, 2]).astype(int) - expected).max() <= 2
    assert expected.std() > 20


FIXED = """
gen (float[1,6] z, float psi) => (float[1,5,5,3] made) {{
    scaled = Mul (z, psi)
    bright = MatMul (scaled, w)
    {step}
    made = Tanh (shaped)
}}"""


def test_a_graph_of_one_row_whose_truncation_is_one_number_is_run_row_by_row(tmp_path):
    w = normal(6, 75)
    text = FIXED.format(step="shaped = Reshape (bright, shape)")
    path = written(tmp_path, text, w=w, shape=np.array([1, 5, 5, 3]))
    converted, model = served(path, tmp_path, "z=z", "truncation=psi", layout="nhwc")
    assert "one after another" in converted.notes[-1]
    psi = np.float32([1.0, 0.5, 0.25])
    z = seeds.draw(SEEDS, 6) * psi[:, None]
    expected = bytes_of(np.tanh(z @ w).reshape(-1, 5, 5, 3))
    same(model.generate(SEEDS, None, list(psi)), expected)


@pytest.mark.parametrize(
    ("step", "loops"),
    [
        ("shaped = Reshape (bright, shape)", False),
        ("shaped = Reshape <allowzero = 1> (bright, shape)", False),
        ("plain = Reshape (bright, flat)\n shaped = Reshape (plain, shape)", True),
    ],
)
def test_a_batch_of_one_becomes_any_batch_where_the_graph_allows(tmp_path, step, loops):
    w = normal(6, 75)
    text = FIXED.format(step=step).replace(", float psi", "").replace("psi", "one")
    weights = {"w": w, "one": np.float32(1), "shape": np.array([1, 5, 5, 3])}
    if loops:
        weights["flat"] = np.array([75])
    converted, model = served(written(tmp_path, text, **weights), tmp_path)
    assert any("one after another" in note for note in converted.notes) == loops
    graph = onnx.load(model.folder / "generator.onnx").graph
    assert (graph.node[-1].op_type == "Scan") == loops
    expected = bytes_of(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 5, 5, 3))
    same(model.generate(SEEDS), expected)
    assert np.array_equal(model.generate(SEEDS)[1], model.generate([5])[0])


def test_a_batch_of_four_that_cannot_be_another_is_refused(tmp_path):
    text = FIXED.format(step="plain = Reshape (bright, flat)\n shaped = Reshape (plain, shape)")
    text = text.replace(", float psi", "").replace("psi", "w_one").replace("[1,", "[4,")
    path = written(
        tmp_path,
        text,
        w=normal(6, 75),
        w_one=np.float32(1),
        flat=np.array([300]),
        shape=np.array([4, 5, 5, 3]),
    )
    with pytest.raises(
        ModelImportError, match="batches of 4 alone; export it with a dynamic batch"
    ):
        convert_graph(path, GraphOptions())


def test_pictures_of_any_size_go_in_and_come_out_enlarged(tmp_path):
    text = """
    up (float[N,H,W,3] low) => (float[N,H2,W2,3] high) {
        turned = Transpose <perm = [0, 3, 1, 2]> (low)
        folded = SpaceToDepth <blocksize = 2> (turned)
        mixed = Conv <kernel_shape = [1, 1]> (folded, w)
        large = DepthToSpace <blocksize = 4> (mixed)
        high = Transpose <perm = [0, 2, 3, 1]> (large)
    }"""
    w = np.abs(normal(48, 12, 1, 1))
    w /= w.sum(1, keepdims=True)
    path = written(tmp_path, text, w=w)
    _, model = served(path, tmp_path, range=(0, 255), said=UserOptions(side=31))
    given = model.manifest.input
    assert (model.manifest.task, given.multiple, given.factor, given.fixed) == (
        "upscale",
        2,
        2,
        False,
    )
    image = probe_images([3], 12, 3)[:, :10]
    folded = image.reshape(1, 5, 2, 6, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 5, 6, 12)
    mixed = folded @ w[:, :, 0, 0].T.astype(float)
    large = mixed.reshape(1, 5, 6, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 20, 24, 3)
    same(model.run("generator", {"image": image})["pixels"], bytes_of(large, 0, 255))


def test_a_mask_makes_an_inpainter_of_one_size(tmp_path):
    text = """
    fill (float[1,1,8,8] picture, float[1,1,8,8] hole) => (float[1,1,8,8] filled) {
        known = Sub (one, hole)
        kept = Mul (picture, known)
        spread = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (kept)
        inside = Mul (spread, hole)
        filled = Add (kept, inside)
    }"""
    path = written(tmp_path, text, one=np.float32(1))
    with pytest.raises(ImportOptionError, match="--range"):
        convert_graph(path, GraphOptions(("image=picture", "mask=hole")))
    with pytest.raises(ImportOptionError, match=r"picture float\[1, 1, 8, 8\], hole"):
        convert_graph(path, GraphOptions(range=(-1, 1)))
    _, model = served(path, tmp_path, "image=picture", "mask=hole", range=(-1, 1), layout="nchw")
    assert (model.manifest.task, model.manifest.input.fixed) == ("inpaint", True)
    image, mask = probe_images(SEEDS, 8, 1), probe_masks(SEEDS, 8)
    hole = (mask > 127)[..., None]
    kept = (image / 127.5 - 1) * ~hole
    padded = np.pad(kept, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    ones = np.pad(np.ones((8, 8)), 1)
    count = np.lib.stride_tricks.sliding_window_view(ones, (3, 3)).sum((2, 3))
    filled = kept + windows.sum((4, 5)) / count[:, :, None] * hole
    same(model.run("generator", {"image": image, "mask": mask})["pixels"], bytes_of(filled))


def test_a_row_of_numbers_is_a_picture_of_the_side_that_fits(tmp_path):
    text = (
        "gen (float[N,6] z) => (float[N,75] flat) { bright = MatMul (z, w) flat = Tanh (bright) }"
    )
    w = normal(6, 75)
    _, model = served(written(tmp_path, text, opset=9, w=w), tmp_path)
    expected = bytes_of(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 3, 5, 5))
    same(model.generate(SEEDS), expected.transpose(0, 2, 3, 1))


SIMPLE = """
gen (float[N,6] input_0) => (float[N,5,5,3] output_0) {{
    bright = MatMul (input_0, w)
    {step}
    shaped = Reshape (other, shape)
    output_0 = Tanh (shaped)
}}"""


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("mean = ReduceMean <axes = [0]> (bright)\n other = Sub (bright, mean)", "rows depend"),
        ("noise = RandomNormalLike (bright)\n other = Add (bright, noise)", "RandomNormalLike"),
        ("other = mine.Blur (bright)", "operators of mine"),
        ("other = Log (bright)", "not finite"),
        ("other = Nonsense (bright)", "no valid ONNX: No Op registered for Nonsense"),
    ],
)
def test_graphs_whose_pictures_depend_on_more_than_their_latent_are_refused(tmp_path, step, says):
    path = written(
        tmp_path,
        SIMPLE.format(step=step),
        domains=', "mine" : 1',
        w=normal(6, 75),
        shape=np.array([-1, 5, 5, 3]),
    )
    with pytest.raises(ModelImportError, match=says) as raised:
        convert_graph(path, GraphOptions())
    assert "\n" not in str(raised.value)


def test_dropout_that_was_left_on_is_off(tmp_path):
    w, flags = normal(6, 75), {"half": np.float32(0.5), "yes": np.bool_(True)}
    text = SIMPLE.format(step="other = Dropout (bright, half, yes)")
    path = written(tmp_path, text, w=w, shape=np.array([-1, 5, 5, 3]), **flags)
    converted, model = served(path, tmp_path)
    assert converted.notes == ["Dropout is off."]
    expected = bytes_of(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 5, 5, 3))
    same(model.generate(SEEDS), expected)


def simple(folder, **more):
    step = "other = Identity (bright)"
    shape = np.array([-1, 5, 5, 3])
    return written(folder, SIMPLE.format(step=step), w=normal(6, 75), shape=shape, **more)


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        (["z=latent"], r"no such input; there are input_0 float\[\?, 6\]$"),
        (["pixels=image"], r"no such output; there are output_0 float\[\?, 5, 5, 3\]$"),
        (["noise=input_0"], "before the = stands one of z, class_index"),
        (["z=input_0", "image=input_0"], "mapped twice"),
        (["class_index=input_0"], "z or image"),
        (["image=input_0"], "other axes than a picture"),
    ],
)
def test_maps_that_lead_nowhere_name_what_there_is(tmp_path, maps, says):
    with pytest.raises(ImportOptionError, match=says):
        convert_graph(simple(tmp_path), GraphOptions(tuple(maps)))


@pytest.mark.parametrize("text", ["1", "1,-1", "0,nan", "black,white", "0,1,2"])
def test_a_range_is_two_numbers_in_their_order(text):
    with pytest.raises(ImportOptionError, match="--range"):
        parse_graph_options([], text, None, None, None, None, UserOptions())


def test_a_range_that_cuts_much_is_told(tmp_path):
    converted = convert_graph(simple(tmp_path), GraphOptions(range=(0, 1)))
    assert "beyond black and white" in converted.notes[0]


def outside(path, location):
    """Move the weights of a graph into a file, and say that it is elsewhere."""
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    (path.parent / "w.bin").write_bytes(b"four" + weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "4"), ("length", str(6 * 75 * 4))):
        weights.external_data.add(key=key, value=value)
    onnx.save(model, path)


def test_weights_beside_the_file_are_taken_in(tmp_path):
    path = simple(tmp_path)
    inside = convert_graph(path, GraphOptions()).onnx_graphs.model
    outside(path, "w.bin")
    assert convert_graph(path, GraphOptions()).onnx_graphs.model == inside


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "link", ""])
def test_weights_elsewhere_are_refused(tmp_path, location):
    folder = tmp_path / "graphs"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(2000))
    (folder / "link").symlink_to(tmp_path / "w.bin")
    path = simple(folder)
    outside(path, location)
    with pytest.raises(UnsafeFileError, match=r"not beside it|leads away"):
        convert_graph(path, GraphOptions())


def test_weights_that_are_not_there_or_too_short_are_told(tmp_path):
    path = simple(tmp_path)
    outside(path, "w.bin")
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ModelImportError, match="ends before"):
        convert_graph(path, GraphOptions())
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelImportError, match="not there"):
        convert_graph(path, GraphOptions())


def test_functions_of_a_file_are_written_out_unless_they_have_no_end(tmp_path):
    path = written(
        tmp_path,
        SIMPLE.format(step="other = mine.Twice (bright)")
        + """
        <domain: "mine", opset_import: ["" : 17]>
        Twice (x) => (y) { y = Add (x, x) }""",
        domains=', "mine" : 1',
        w=normal(6, 75),
        shape=np.array([-1, 5, 5, 3]),
    )
    model = convert_graph(path, GraphOptions()).onnx_graphs.model
    assert not model.functions
    assert "Add" in {node.op_type for node in model.graph.node}

    deep = onnx.load(path)
    for i in range(60):
        # Each calls the next one twice.
        body = [helper.make_node(f"F{i + 1}", ["x"], [name], domain="mine") for name in "ab"]
        body.append(helper.make_node("Add", ["a", "b"], ["y"]))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        deep.functions.append(helper.make_function("mine", f"F{i}", ["x"], ["y"], body, opsets))
    deep.graph.node[1].op_type = "F0"
    onnx.save(deep, path)
    with pytest.raises(ModelImportError, match="operators, more than"):
        convert_graph(path, GraphOptions())
    deep.functions[-1].node[0].op_type = "F3"
    onnx.save(deep, path)
    with pytest.raises(ModelImportError, match="calls itself"):
        convert_graph(path, GraphOptions())


def test_what_is_in_a_graph_is_explained_without_a_word_on_it(tmp_path):
    lines = describe_graph(simple(tmp_path))
    assert lines[1:] == [
        "  takes input_0 float[?, 6]",
        "  gives output_0 float[?, 5, 5, 3]",
        "  input_0 would be z",
        "  output_0 would be pixels",
    ]
