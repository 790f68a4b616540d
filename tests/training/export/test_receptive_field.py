import pytest

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.image_to_image_models import REACH, WIDE_REACH, write_translators
from training.export.graphs import side_to_check
from training.export.receptive_field import measure_receptive_field


class RecordingModel(Model):
    """A model that records the shapes of its inputs."""

    def run(self, role, feeds, *, alone=False):
        self.__dict__.setdefault("shapes", []).append(feeds["image"].shape)
        return super().run(role, feeds, alone=alone)


@pytest.fixture
def load(tmp_path):
    write_translators(tmp_path)

    def model(name, **changes):
        folder = tmp_path / name / "1"
        manifest = read_manifest(folder)
        image_input = manifest.input.model_copy(update=changes)
        changed = manifest.model_copy(update={"input": image_input})
        (folder / "model.json").write_text(changed.to_json())
        loaded = RecordingModel(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
        loaded.shapes.clear()
        return loaded

    return model


@pytest.mark.parametrize("name", ["softer", "larger"])
def test_large_theoretical_receptive_fields_are_measured_in_strips(load, name):
    """The cost does not grow with the theoretical receptive field."""
    small, large = load(name, reach=16), load(name, reach=2000)
    images = probe_images(range(4), 64, 3)
    measured = measure_receptive_field(large, images)
    assert measured == measure_receptive_field(small, images)
    assert 1 <= measured <= 2 * REACH
    assert max(height * width for _, height, width, _ in large.shapes) <= 96 * 48
    assert {shape[1] > shape[2] for shape in large.shapes} == {True, False}


def test_strips_grow_until_the_changes_end(load):
    model = load("wide", reach=2000)
    measured = measure_receptive_field(model, probe_images(range(4), 64, 3))
    assert WIDE_REACH / 2 <= measured <= 1.25 * WIDE_REACH + 1
    lengths = {max(height, width) for _, height, width, _ in model.shapes}
    assert max(lengths) in (192, 384)
    assert min(lengths) == 48


def test_size_that_cannot_be_varied_keeps_its_receptive_field(load):
    model = load("larger-fixed")
    images = probe_images(range(4), (12, 16), 3)
    assert measure_receptive_field(model, images) == REACH
    assert not model.shapes


def test_side_to_check_is_bounded_for_large_networks():
    tiny, large = 100, 8_000_000
    assert side_to_check(tiny, 64, smallest=1, multiple=1) == 64
    side = side_to_check(large, 4096, smallest=1, multiple=4)
    assert 8 <= side < 64
    assert side % 4 == 0
    assert side_to_check(large, 4096, smallest=512, multiple=4) == 512
