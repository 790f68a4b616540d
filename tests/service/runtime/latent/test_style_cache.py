import numpy as np
import pytest

from service.runtime.latent.style_cache import StyleCache


def test_evicts_least_recently_used_styles():
    styles = {key: np.full((2, 4), key, np.float32) for key in range(5)}
    cache = StyleCache(3 * styles[0].nbytes)
    for key in (0, 1, 2):
        cache.put(key, styles[key])
    assert (cache.get(0) == 0).all()
    cache.put(3, styles[3])
    assert cache.get(1) is None
    assert [cache.get(key) is not None for key in (0, 2, 3)] == [True] * 3
    assert len(cache) == 3
    cache.put(3, styles[3])
    assert len(cache) == 3
    # Larger than the limit of the whole cache.
    cache.put(4, np.zeros((100, 100), np.float32))
    assert cache.get(4) is None
    assert len(cache) == 3


def test_cached_styles_are_read_only_copies():
    cache = StyleCache(1000)
    styles = np.zeros((2, 4), np.float32)
    cache.put("a", styles)
    styles[:] = 1
    cached = cache.get("a")
    assert not cached.any()
    with pytest.raises(ValueError, match="read-only"):
        cached[:] = 2
