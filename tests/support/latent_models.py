"""Small models with directions in latent space and an encoder, built from ONNX nodes.

- `movable` has styles; every layer determines a band of the image, as in `painted`. Its encoder
  halves the error of w in every pass.
- `movable-classes` is a single graph with classes. Its encoder finds z in one pass, exactly if the
  class is that of the image.

Both generators are linear up to a sigmoid, so that their encoders are the inverse.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto
from PIL import Image

from service.runtime.latent.sources import encode_floats
from service.runtime.models.manifest import MANIFEST_FILE, file_sha256, read_manifest
from service.runtime.models.parts.additions import (
    DIRECTIONS_FILE,
    Direction,
    DirectionFigures,
    Directions,
    Encoder,
    InversionFigure,
)
from service.runtime.models.parts.graphs import ENCODER, GENERATOR, MAPPING, SYNTHESIS
from service.runtime.models.parts.latent import StyleLayer, StyleSpace
from tests.support.drawn_models import (
    BAND,
    CLASSES,
    GROUPS,
    LAYERS,
    SIZE,
    GraphBuilder,
    W,
    Z,
    write_manifest,
)

# More than z has: only images of the right class can be inverted exactly.
FEATURES = 20
PASSES = 5
_VALUES = SIZE * SIZE * 3
_BAND_VALUES = BAND * SIZE * 3
_FIGURES = DirectionFigures(
    effect=0.5,
    drift=0.1,
    random_effect=0.2,
    random_drift=0.2,
    samples=8,
    feature_network="none",
    drift_of="other bands",
)


def write_latent_models(models: Path) -> None:
    """Write both models into the folder `models`."""
    write_movable(models / "movable" / "1")
    write_movable_classes(models / "movable-classes" / "1")


def write_movable(folder: Path, *, encoder_step: float = 0.5) -> None:
    """Write the model with styles. A pass of the encoder reduces the error by `encoder_step`."""
    folder.mkdir(parents=True)
    seed = 11
    mapping = GraphBuilder(seed)
    one_row = mapping.node("Unsqueeze", mapping.features(W, ["z"]), mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), output="w")

    rng = np.random.default_rng(seed + 1)
    weights = rng.normal(size=(LAYERS, W, _BAND_VALUES)).astype(np.float32) / 2
    synthesis = GraphBuilder(seed)
    bands = [
        synthesis.node(
            "MatMul",
            synthesis.node("Gather", "w", synthesis.constant(layer), axis=1),
            synthesis.constant(weights[layer]),
        )
        for layer in range(LAYERS)
    ]
    synthesis.add_pixels(synthesis.node("Concat", *bands, axis=1), [-1, SIZE, SIZE, 3])

    encoder = GraphBuilder(seed)
    # [LAYERS, BAND_VALUES, W]
    inverses = np.linalg.pinv(weights.astype(np.float64)).astype(np.float32)
    found = [_styles(encoder, name, inverses) for name in ("image", "reconstruction")]
    step = encoder.node(
        "Mul", encoder.node("Sub", *found), encoder.constant(np.float32(encoder_step))
    )
    encoder.node("Add", "w", step, output="new_w")
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", ["z"], ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w"], ["pixels"]),
        ENCODER: encoder.save(folder / "encoder.onnx", ["image", "reconstruction", "w"], ["new_w"]),
    }
    layers = [
        StyleLayer(resolution=SIZE >> (2 - i // 2), group=group) for i, group in enumerate(GROUPS)
    ]
    write_manifest(
        folder,
        graphs,
        ["z"],
        styles=StyleSpace(dimension=W, layers=layers),
        encoder=_encoder(np.zeros(W)),
    )
    write_directions(folder)


def write_movable_classes(folder: Path) -> None:
    """Write the model with classes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(13)
    first, second, embedding = (
        rng.normal(size=shape).astype(np.float32) / 3
        for shape in ((Z, FEATURES), (FEATURES, _VALUES), (len(CLASSES), FEATURES))
    )
    generator = GraphBuilder(14)
    features = generator.node(
        "Add",
        generator.node("MatMul", "z", generator.constant(first)),
        generator.node("Gather", generator.constant(embedding), "class_index"),
    )
    values = generator.node("MatMul", features, generator.constant(second))
    generator.add_pixels(values, [-1, SIZE, SIZE, 3])

    encoder = GraphBuilder(15)
    inverses = [np.linalg.pinv(each.astype(np.float64)) for each in (first, second)]
    found = encoder.node("MatMul", _logits(encoder, "image"), _constant(encoder, inverses[1]))
    offset = encoder.node("Gather", encoder.constant(embedding), "class_index")
    latent = encoder.node(
        "MatMul", encoder.node("Sub", found, offset), _constant(encoder, inverses[0])
    )
    # ONNX Runtime removes unused inputs, so they are used with a weight of 0.
    unused = encoder.node("Mul", "z", encoder.constant(np.float32(0)))
    pixels = encoder.node("Cast", "reconstruction", to=TensorProto.FLOAT)
    zeros = encoder.constant(np.zeros((_VALUES, Z), np.float32))
    flat = encoder.node("Reshape", pixels, encoder.constant([-1, _VALUES]))
    unused = encoder.node("Add", unused, encoder.node("MatMul", flat, zeros))
    encoder.node("Add", latent, unused, output="new_z")
    inputs = ["z", "class_index"]
    graphs = {
        GENERATOR: generator.save(folder / "generator.onnx", inputs, ["pixels"]),
        ENCODER: encoder.save(
            folder / "encoder.onnx", ["image", "reconstruction", *inputs], ["new_z"]
        ),
    }
    write_manifest(folder, graphs, inputs, encoder=_encoder(np.zeros(Z)))
    write_directions(folder)


def write_directions(folder: Path, *, seed: int = 3) -> None:
    """Add directions with random vectors to a model folder, and replace earlier ones.

    A model with styles has `bright` in the coarse layers, `warm` in the fine ones and `turn` in z;
    others have `turn` only.
    """
    manifest = read_manifest(folder)
    rng = np.random.default_rng(seed)
    layers = {"bright": (0, 1), "warm": (4, 5)} if manifest.styles else {}
    vectors = {name: rng.normal(size=W).astype(np.float32) / 3 for name in layers}
    vectors["turn"] = rng.normal(size=Z).astype(np.float32) / 3
    np.savez(folder / DIRECTIONS_FILE, **vectors)
    items = []
    for name in vectors:
        strip = f"direction-{name}.webp"
        Image.fromarray(np.full((SIZE, 5 * SIZE, 3), 99, np.uint8)).save(folder / strip)
        items.append(
            Direction(
                name=name,
                space="w" if name in layers else "z",
                method="sefa",
                description=f"random vector {name}",
                layers=layers.get(name, ()),
                strip=strip,
                figures=_FIGURES,
            )
        )
    directions = Directions(sha256=file_sha256(folder / DIRECTIONS_FILE), items=tuple(items))
    changed = manifest.model_copy(update={"directions": directions})
    (folder / MANIFEST_FILE).write_text(changed.to_json())


def _styles(builder: GraphBuilder, name: str, inverses: np.ndarray) -> str:
    """Map images to the styles ``[N, LAYERS, W]`` that generate them."""
    shape = builder.constant([-1, LAYERS, _BAND_VALUES])
    bands = builder.node("Reshape", _logits(builder, name), shape)
    # One matrix for each layer: a stack of matrices would not give the same bits for every N.
    found = [
        builder.node(
            "MatMul",
            builder.node("Gather", bands, builder.constant([layer]), axis=1),
            builder.constant(inverses[layer]),
        )
        for layer in range(LAYERS)
    ]
    return builder.node("Concat", *found, axis=1)


def _logits(builder: GraphBuilder, name: str) -> str:
    """Map images ``[N, H, W, C] uint8`` to the values ``[N, H * W * C]`` before the sigmoid."""
    pixels = builder.node("Cast", name, to=TensorProto.FLOAT)
    flat = builder.node("Reshape", pixels, builder.constant([-1, _VALUES]))
    levels = builder.node("Div", flat, builder.constant(np.float32(255)))
    low, high = builder.constant(np.float32(0.002)), builder.constant(np.float32(0.998))
    share = builder.node("Clip", levels, low, high)
    odds = builder.node("Div", share, builder.node("Sub", builder.constant(np.float32(1)), share))
    return builder.node("Log", odds)


def _constant(builder: GraphBuilder, values: np.ndarray) -> str:
    return builder.constant(values.astype(np.float32))


def _encoder(start: np.ndarray) -> Encoder:
    figure = InversionFigure(
        metric="PSNR",
        images="own samples",
        count=8,
        value=40.0,
        mean_image=10.0,
        nearest=12.0,
        candidates=100,
    )
    return Encoder(
        passes=PASSES,
        start=encode_floats(start),
        trained_images=1,
        seconds=0.0,
        figures=(figure,),
    )
