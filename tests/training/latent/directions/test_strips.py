"""Strips show the images that edits of the runtime give."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.runtime.generation import edit_plan, execute, image_plan
from service.runtime.images.xmp import SourceType, read_source_type
from service.runtime.latent.directions import load_directions
from service.runtime.latent.editing import Edit
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import SIZE
from tests.support.latent_models import write_latent_models
from training.latent.directions.latents import draw
from training.latent.directions.strips import ROWS, STEPS, reversed_strip, strip


@pytest.fixture(scope="module", params=["movable", "movable-classes"])
def model(request, tmp_path_factory) -> Model:
    models = tmp_path_factory.mktemp("models")
    write_latent_models(models)
    plan = ExecutionPlan(workers=1, threads=1, max_rows=16)
    return Model(models / request.param / "1", Provider.CPU, plan)


def strip_pixels(content: bytes) -> np.ndarray:
    """The images of a strip ``[rows, columns, H, W, C]``, without their enlargement."""
    image = np.asarray(Image.open(BytesIO(content)))
    times = image.shape[1] // len(STEPS) // SIZE
    small = image[::times, ::times]
    return small.reshape(ROWS, SIZE, len(STEPS), SIZE, 3).transpose(0, 2, 1, 3, 4)


def test_strip_equals_edits_of_the_runtime(model):
    item = model.manifest.directions.items[0]
    vectors = load_directions(model.folder, model.manifest)
    seeds = range(7, 7 + ROWS)
    content = strip(model, draw(model, seeds), vectors[item.name], item.layers)
    classes = model.classes_of(seeds)
    sources = [
        LatentSource(seed, classes={classes[i]: 1.0} if classes else None)
        for i, seed in enumerate(seeds)
        for _ in STEPS
    ]
    edits = [Edit({item.name: step}) for _ in seeds for step in STEPS]
    plan = edit_plan(model.manifest, sources, edits, vectors)
    edited = execute(image_plan(model.manifest, execute(plan, model.run)), model.run)
    expected = edited.reshape(ROWS, len(STEPS), SIZE, SIZE, 3)
    np.testing.assert_array_equal(strip_pixels(content), expected)
    np.testing.assert_array_equal(strip_pixels(reversed_strip(content)), expected[:, ::-1])
    for each in (content, reversed_strip(content)):
        assert read_source_type(each) == SourceType.GENERATED.uri
