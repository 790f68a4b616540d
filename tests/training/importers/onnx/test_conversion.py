"""Imported ONNX graphs, compared with the same computation in NumPy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from service.runtime.latent import seeds
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.errors import ImportOptionError, ModelImportError, UnsafeFileError
from training.importers.import_model import ImportTarget, import_model
from training.importers.onnx.conversion import OnnxFormat, convert_graph, describe_graph
from training.importers.onnx.ports import GraphOptions, parse_graph_options
from training.importers.options import UserOptions

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)
rng = np.random.default_rng(0)


def write_graph(folder, text, *, opset=17, domains="", **weights):
    """Write a graph in ONNX's text format, with weights by name."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n'
    model = parser.parse_model(head + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = folder / "gen.onnx"
    onnx.save(model, path)
    return path


def normal(*shape, scale=1.0):
    return (rng.normal(size=shape) * scale).astype(np.float32)


def import_graph(path, folder, *maps, common=None, **options):
    """Import a graph and load the model folder."""
    converted = convert_graph(path, GraphOptions(maps, common=common or UserOptions(), **options))
    written = import_model(path, OnnxFormat(), converted, ImportTarget(folder / "models", "m"))
    return converted, Model(written, Provider.CPU, PLAN)


def to_bytes(values, low=-1.0, high=1.0):
    return np.floor(((values - low) * 255 / (high - low)).clip(0, 255) + 0.5).astype(int)


def assert_same(pixels, expected):
    """Assert that images are equal except for rounding, and have more than one color."""
    assert expected.std() > 20
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1


SEEDS = [0, 5, 9]
FROM_Z = """
gen (float[N,6] input_0, float[N,3] labels) => (float[N,3,4,5] output_0, float[N,60] hidden) {
    joined = Concat <axis = 1> (input_0, labels)
    hidden = MatMul (joined, w)
    images = Reshape (hidden, shape)
    output_0 = Tanh (images)
}"""


def test_maps_z_and_one_hot_classes(tmp_path):
    w = normal(9, 60)
    path = write_graph(tmp_path, FROM_Z, w=w, shape=np.array([-1, 3, 4, 5]))
    _, model = import_graph(
        path,
        tmp_path,
        "z=input_0",
        "class=labels",
        "pixels=output_0",
        range=(-1, 1),
        common=UserOptions(class_names=("a", "b", "c")),
    )
    manifest = model.manifest
    assert manifest.classes == ("a", "b", "c")
    assert (manifest.latent.dimension, manifest.image_spec.height, manifest.image_spec.width) == (
        6,
        4,
        5,
    )
    assert manifest.provenance.format == "onnx"
    assert manifest.provenance.source_file == "gen.onnx"
    z = seeds.draw(SEEDS, 6)
    joined = np.concatenate([z, np.eye(3, dtype=np.float32)[[2, 0, 1]]], 1)
    expected = to_bytes(np.tanh(joined @ w).reshape(-1, 3, 4, 5).transpose(0, 2, 3, 1))
    assert_same(model.generate(SEEDS, [2, 0, 1]), expected)
    blended = model.run("generator", {"z": z[:1], "class_weights": np.float32([[0.5, 0.5, 0]])})
    mixed = np.concatenate([z[:1], [[0.5, 0.5, 0]]], 1)
    assert_same(
        blended["pixels"], to_bytes(np.tanh(mixed @ w).reshape(1, 3, 4, 5).transpose(0, 2, 3, 1))
    )


def test_infers_fp16_latent_class_index_and_uint8_output(tmp_path):
    text = """
    gen (float16[N,6,1,1] noise, int32[N,1] label) => (uint8[N,5,5,1] image) {
        flat = Flatten <axis = 1> (noise)
        squeezed = Reshape (label, column)
        embedded = Gather (table, squeezed)
        joined = Mul (flat, embedded)
        bright = MatMul (joined, w)
        part = Sigmoid (bright)
        levels_float = Mul (part, levels)
        shaped = Reshape (levels_float, shape)
        image = Cast <to = 2> (shaped)
    }"""
    table, w = normal(5, 6).astype(np.float16), normal(6, 25).astype(np.float16)
    shape, column = np.array([-1, 5, 5, 1]), np.array([-1])
    path = write_graph(
        tmp_path, text, table=table, w=w, shape=shape, column=column, levels=np.float16(255)
    )
    with pytest.raises(ImportOptionError, match="--classes"):
        convert_graph(path, GraphOptions())
    # Only one name is possible for each port, so no `--map` is needed.
    converted, model = import_graph(path, tmp_path, common=UserOptions(classes=5, latent="unit"))
    assert dict(converted.details)["class_index"] == "label int32[?, 1]"
    assert model.manifest.latent.distribution == "uniform"
    z = (seeds.draw(SEEDS, 6, "uniform") + 1) / 2
    bright = z * table[[1, 4, 2]].astype(float) @ w.astype(float)
    expected = (255 / (1 + np.exp(-bright))).reshape(-1, 5, 5, 1).astype(int)
    assert np.abs(model.generate(SEEDS, [1, 4, 2]).astype(int) - expected).max() <= 2
    assert expected.std() > 20


FIXED = """
gen (float[1,6] z, float psi) => (float[1,5,5,3] images) {{
    scaled = Mul (z, psi)
    bright = MatMul (scaled, w)
    {step}
    images = Tanh (shaped)
}}"""


def test_runs_row_by_row_with_a_scalar_truncation(tmp_path):
    w = normal(6, 75)
    text = FIXED.format(step="shaped = Reshape (bright, shape)")
    path = write_graph(tmp_path, text, w=w, shape=np.array([1, 5, 5, 3]))
    converted, model = import_graph(path, tmp_path, "z=z", "truncation=psi", layout="nhwc")
    assert "run in a loop" in converted.notes[-1]
    psi = np.float32([1.0, 0.5, 0.25])
    z = seeds.draw(SEEDS, 6) * psi[:, None]
    expected = to_bytes(np.tanh(z @ w).reshape(-1, 5, 5, 3))
    assert_same(model.generate(SEEDS, None, list(psi)), expected)


@pytest.mark.parametrize(
    ("step", "loops"),
    [
        ("shaped = Reshape (bright, shape)", False),
        ("shaped = Reshape <allowzero = 1> (bright, shape)", False),
        ("plain = Reshape (bright, flat)\n shaped = Reshape (plain, shape)", True),
    ],
)
def test_makes_a_batch_of_one_dynamic(tmp_path, step, loops):
    w = normal(6, 75)
    text = FIXED.format(step=step).replace(", float psi", "").replace("psi", "one")
    weights = {"w": w, "one": np.float32(1), "shape": np.array([1, 5, 5, 3])}
    if loops:
        weights["flat"] = np.array([75])
    converted, model = import_graph(write_graph(tmp_path, text, **weights), tmp_path)
    assert any("run in a loop" in note for note in converted.notes) == loops
    graph = onnx.load(model.folder / "generator.onnx").graph
    assert (graph.node[-1].op_type == "Scan") == loops
    expected = to_bytes(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 5, 5, 3))
    assert_same(model.generate(SEEDS), expected)
    assert np.array_equal(model.generate(SEEDS)[1], model.generate([5])[0])


def test_rejects_a_fixed_batch_of_four(tmp_path):
    text = FIXED.format(step="plain = Reshape (bright, flat)\n shaped = Reshape (plain, shape)")
    text = text.replace(", float psi", "").replace("psi", "w_one").replace("[1,", "[4,")
    path = write_graph(
        tmp_path,
        text,
        w=normal(6, 75),
        w_one=np.float32(1),
        flat=np.array([300]),
        shape=np.array([4, 5, 5, 3]),
    )
    with pytest.raises(ModelImportError, match="batches of 4 only; export it with a dynamic batch"):
        convert_graph(path, GraphOptions())


def test_upscales_images_of_any_size(tmp_path):
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
    path = write_graph(tmp_path, text, w=w)
    _, model = import_graph(path, tmp_path, range=(0, 255), common=UserOptions(side=31))
    image_input = model.manifest.input
    measured = (image_input.multiple, image_input.factor, image_input.fixed)
    assert (model.manifest.task, *measured) == (
        "upscale",
        2,
        2,
        False,
    )
    image = probe_images([3], 12, 3)[:, :10]
    folded = image.reshape(1, 5, 2, 6, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 5, 6, 12)
    mixed = folded @ w[:, :, 0, 0].T.astype(float)
    large = mixed.reshape(1, 5, 6, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 20, 24, 3)
    assert_same(model.run("generator", {"image": image})["pixels"], to_bytes(large, 0, 255))


def test_image_and_mask_make_an_inpainting_model(tmp_path):
    text = """
    fill (float[1,1,8,8] known_image, float[1,1,8,8] region) => (float[1,1,8,8] filled) {
        known = Sub (one, region)
        kept = Mul (known_image, known)
        spread = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (kept)
        inside = Mul (spread, region)
        filled = Add (kept, inside)
    }"""
    path = write_graph(tmp_path, text, one=np.float32(1))
    with pytest.raises(ImportOptionError, match="--range"):
        convert_graph(path, GraphOptions(("image=known_image", "mask=region")))
    with pytest.raises(ImportOptionError, match=r"known_image float\[1, 1, 8, 8\], region"):
        convert_graph(path, GraphOptions(range=(-1, 1)))
    _, model = import_graph(
        path, tmp_path, "image=known_image", "mask=region", range=(-1, 1), layout="nchw"
    )
    assert (model.manifest.task, model.manifest.input.fixed) == ("inpaint", True)
    image, mask = probe_images(SEEDS, 8, 1), probe_masks(SEEDS, 8)
    region = (mask > 127)[..., None]
    kept = (image / 127.5 - 1) * ~region
    padded = np.pad(kept, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    ones = np.pad(np.ones((8, 8)), 1)
    count = np.lib.stride_tricks.sliding_window_view(ones, (3, 3)).sum((2, 3))
    filled = kept + windows.sum((4, 5)) / count[:, :, None] * region
    assert_same(model.run("generator", {"image": image, "mask": mask})["pixels"], to_bytes(filled))


def test_reshapes_a_vector_to_a_square_image(tmp_path):
    text = (
        "gen (float[N,6] z) => (float[N,75] flat) { bright = MatMul (z, w) flat = Tanh (bright) }"
    )
    w = normal(6, 75)
    _, model = import_graph(write_graph(tmp_path, text, opset=9, w=w), tmp_path)
    expected = to_bytes(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 3, 5, 5))
    assert_same(model.generate(SEEDS), expected.transpose(0, 2, 3, 1))


SIMPLE = """
gen (float[N,6] input_0) => (float[N,5,5,3] output_0) {{
    bright = MatMul (input_0, w)
    {step}
    shaped = Reshape (other, shape)
    output_0 = Tanh (shaped)
}}"""


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "mean = ReduceMean <axes = [0]> (bright)\n other = Sub (bright, mean)",
            "rows of a batch depend",
        ),
        ("noise = RandomNormalLike (bright)\n other = Add (bright, noise)", "RandomNormalLike"),
        ("other = mine.Blur (bright)", "custom operators of mine"),
        ("other = Log (bright)", "not finite"),
        ("other = Nonsense (bright)", "not valid ONNX: No Op registered for Nonsense"),
    ],
)
def test_rejects_graphs_without_independent_rows(tmp_path, step, message):
    path = write_graph(
        tmp_path,
        SIMPLE.format(step=step),
        domains=', "mine" : 1',
        w=normal(6, 75),
        shape=np.array([-1, 5, 5, 3]),
    )
    with pytest.raises(ModelImportError, match=message) as raised:
        convert_graph(path, GraphOptions())
    assert "\n" not in str(raised.value)


def test_disables_dropout(tmp_path):
    w, flags = normal(6, 75), {"half": np.float32(0.5), "yes": np.bool_(True)}
    text = SIMPLE.format(step="other = Dropout (bright, half, yes)")
    path = write_graph(tmp_path, text, w=w, shape=np.array([-1, 5, 5, 3]), **flags)
    converted, model = import_graph(path, tmp_path)
    assert converted.notes == ["Dropout is off."]
    expected = to_bytes(np.tanh(seeds.draw(SEEDS, 6) @ w).reshape(-1, 5, 5, 3))
    assert_same(model.generate(SEEDS), expected)


def simple_graph(folder, **more):
    step = "other = Identity (bright)"
    shape = np.array([-1, 5, 5, 3])
    return write_graph(folder, SIMPLE.format(step=step), w=normal(6, 75), shape=shape, **more)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["z=latent"], r"no such input; its inputs are input_0 float\[\?, 6\]$"),
        (["pixels=image"], r"no such output; its outputs are output_0 float\[\?, 5, 5, 3\]$"),
        (["noise=input_0"], "expected NAME=PORT with a NAME of z, class_index"),
        (["z=input_0", "image=input_0"], "mapped twice"),
        (["class_index=input_0"], "either z or image"),
        (["image=input_0"], "an image has 3 or 4 axes"),
    ],
)
def test_rejects_invalid_maps(tmp_path, maps, message):
    with pytest.raises(ImportOptionError, match=message):
        convert_graph(simple_graph(tmp_path), GraphOptions(tuple(maps)))


@pytest.mark.parametrize("text", ["1", "1,-1", "0,nan", "black,white", "0,1,2"])
def test_rejects_invalid_ranges(text):
    with pytest.raises(ImportOptionError, match="--range"):
        parse_graph_options([], text, None, None, None, None, UserOptions())


def test_notes_clipped_values(tmp_path):
    converted = convert_graph(simple_graph(tmp_path), GraphOptions(range=(0, 1)))
    assert "beyond black and white" in converted.notes[0]


def externalize(path, location):
    """Move the weights of a graph to a file, and refer to them by `location`."""
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    (path.parent / "w.bin").write_bytes(b"four" + weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "4"), ("length", str(6 * 75 * 4))):
        weights.external_data.add(key=key, value=value)
    onnx.save(model, path)


def test_loads_external_weights(tmp_path):
    path = simple_graph(tmp_path)
    inside = convert_graph(path, GraphOptions()).onnx_graphs.model
    externalize(path, "w.bin")
    assert convert_graph(path, GraphOptions()).onnx_graphs.model == inside


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "link", ""])
def test_rejects_weights_outside_the_folder(tmp_path, location):
    folder = tmp_path / "graphs"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(2000))
    (folder / "link").symlink_to(tmp_path / "w.bin")
    path = simple_graph(folder)
    externalize(path, location)
    with pytest.raises(UnsafeFileError, match="outside its folder"):
        convert_graph(path, GraphOptions())


def test_rejects_missing_and_short_weights(tmp_path):
    path = simple_graph(tmp_path)
    externalize(path, "w.bin")
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ModelImportError, match="too short"):
        convert_graph(path, GraphOptions())
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelImportError, match="does not exist"):
        convert_graph(path, GraphOptions())


def test_inlines_functions_unless_recursive(tmp_path):
    path = write_graph(
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
        # Each function calls the next one twice.
        body = [helper.make_node(f"F{i + 1}", ["x"], [name], domain="mine") for name in "ab"]
        body.append(helper.make_node("Add", ["a", "b"], ["y"]))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        deep.functions.append(helper.make_function("mine", f"F{i}", ["x"], ["y"], body, opsets))
    deep.graph.node[1].op_type = "F0"
    onnx.save(deep, path)
    with pytest.raises(ModelImportError, match="operators; at most"):
        convert_graph(path, GraphOptions())
    deep.functions[-1].node[0].op_type = "F3"
    onnx.save(deep, path)
    with pytest.raises(ModelImportError, match="calls itself"):
        convert_graph(path, GraphOptions())


def test_describes_ports_of_a_graph(tmp_path):
    lines = describe_graph(simple_graph(tmp_path))
    assert lines[1:] == [
        "  input input_0 float[?, 6]",
        "  output output_0 float[?, 5, 5, 3]",
        "  input_0 is used as z",
        "  output_0 is used as pixels",
    ]
