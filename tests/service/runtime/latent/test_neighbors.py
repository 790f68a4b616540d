import numpy as np
import pytest

from service.runtime.latent.neighbors import SampleCache, nearest, sample_count, thumbnails
from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.outputs import ImageSpec


@pytest.mark.parametrize(("side", "count"), [(24, 256), (128, 256), (256, 64), (1024, 16)])
def test_number_of_samples_depends_on_the_size(drawn_repository, side, count):
    manifest = read_manifest(drawn_repository / "painted" / "1")
    image = ImageSpec(width=side, height=side, channels=3)
    assert sample_count(manifest.model_copy(update={"image": image})) == count


def test_nearest_is_the_first_of_equal_samples():
    images = np.random.default_rng(0).integers(0, 256, (5, 100, 60, 3), np.uint8)
    images[3] = images[1]
    samples = thumbnails(images)
    assert samples.shape == (5, 32, 19, 3)
    assert nearest(samples, images[3]) == (1, 0)
    index, error = nearest(samples[2:3], images[0])
    assert index == 0
    assert error > 0


def test_small_images_are_compared_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 1), np.uint8)
    assert thumbnails(images) is images


def test_least_recently_used_samples_leave_the_cache():
    cache = SampleCache()
    part = np.zeros((1, 2**22), np.uint8)
    for i in range(4):
        cache.put(("model", i), part)
    assert cache.get(("model", 0)) is part
    cache.put(("model", 4), part)
    assert [cache.get(("model", i)) is not None for i in range(5)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    cache.put(("model", 4), part)
    assert cache.get(("model", 0)) is not None
