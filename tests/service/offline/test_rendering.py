"""Images of a batch are resized and encoded one at a time."""

import tracemalloc

import pytest

from service.offline.halving import Stopped
from service.offline.rendering import ShardRenderer, contact_sheet
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider

SIDE = 1000
IMAGE_BYTES = SIDE * SIDE * 3


@pytest.fixture(scope="module")
def model(drawn_repository):
    return Model(drawn_repository / "painted-classes" / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


def test_stops_between_the_images_of_a_batch(model, job_of):
    renderer = ShardRenderer(model, job_of(count=8))
    images = renderer.shard(0, lambda: next(images_so_far) == 3)
    images_so_far = iter([0, 0, 1, 2, 3])
    assert [next(images).item.number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Stopped):
        next(images)


def test_keeps_one_resized_image_at_a_time(model, job_of):
    renderer = ShardRenderer(model, job_of(count=8, resize=(SIDE, SIDE)))
    items = [renderer.items(number) for number in range(8)]
    tracemalloc.start()
    try:
        assert len(list(map(len, (image.file for image in renderer.shard(0))))) == 8
        sheet = contact_sheet(renderer.pixels(items))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sheet is not None
    # The whole batch would be eight images; encoding copies the current one.
    assert peak < 5 * IMAGE_BYTES
    assert contact_sheet([]) is None
