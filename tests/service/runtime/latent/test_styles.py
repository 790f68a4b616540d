import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.latent.styles import StyleCache, mix

LAYERS = 5


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    taken=st.dictionaries(st.integers(0, LAYERS - 1), st.sampled_from([0.0, 0.25, 1.0])),
)
def test_layers_come_from_the_column_and_the_others_from_the_row(rows, columns, taken):
    row_styles = np.random.default_rng(0).normal(size=(rows, LAYERS, 3)).astype(np.float32)
    column_styles = np.random.default_rng(1).normal(size=(columns, LAYERS, 3)).astype(np.float32)
    mixed = mix(row_styles, column_styles, taken)
    assert mixed.shape == (rows * columns, LAYERS, 3)
    assert mixed.dtype == np.float32
    for i in range(rows):
        for j in range(columns):
            for layer in range(LAYERS):
                row, column = row_styles[i, layer], column_styles[j, layer]
                share = taken.get(layer, 0.0)
                # A whole style is the source's to the last bit.
                expected = {0.0: row, 1.0: column}.get(share, row + share * (column - row))
                got = mixed[i * columns + j, layer]
                np.testing.assert_allclose(got, expected, rtol=0 if share in (0, 1) else 1e-5)


def test_the_sources_are_left_as_they_were():
    rows, columns = np.zeros((1, LAYERS, 3)), np.ones((2, LAYERS, 3))
    mix(rows, columns, dict.fromkeys(range(LAYERS), 1.0))
    assert not rows.any()
    assert columns.all()


def test_the_cache_keeps_the_styles_used_last_and_no_more_bytes_than_it_may():
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
    # Larger than all that it may keep.
    cache.put(4, np.zeros((100, 100), np.float32))
    assert cache.get(4) is None
    assert len(cache) == 3


def test_what_the_cache_keeps_is_not_what_others_write_to():
    cache = StyleCache(1000)
    styles = np.zeros((2, 4), np.float32)
    cache.put("a", styles)
    styles[:] = 1
    kept = cache.get("a")
    assert not kept.any()
    with pytest.raises(ValueError, match="read-only"):
        kept[:] = 2
