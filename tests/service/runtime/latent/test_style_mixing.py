import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.latent.style_mixing import mix_styles

LAYERS = 5


@given(
    row_count=st.integers(1, 4),
    column_count=st.integers(1, 4),
    weights=st.dictionaries(st.integers(0, LAYERS - 1), st.sampled_from([0.0, 0.25, 1.0])),
)
def test_blends_selected_layers_by_weight(row_count, column_count, weights):
    rows = np.random.default_rng(0).normal(size=(row_count, LAYERS, 3)).astype(np.float32)
    columns = np.random.default_rng(1).normal(size=(column_count, LAYERS, 3)).astype(np.float32)
    mixed = mix_styles(rows, columns, weights)
    assert mixed.shape == (row_count * column_count, LAYERS, 3)
    assert mixed.dtype == np.float32
    for i in range(row_count):
        for j in range(column_count):
            for layer in range(LAYERS):
                row, column = rows[i, layer], columns[j, layer]
                weight = weights.get(layer, 0.0)
                expected = {0.0: row, 1.0: column}.get(weight, row + weight * (column - row))
                actual = mixed[i * column_count + j, layer]
                # Weights 0 and 1 give the source's style bit for bit.
                rtol = 0 if weight in (0, 1) else 1e-5
                np.testing.assert_allclose(actual, expected, rtol=rtol)


def test_leaves_inputs_unchanged():
    rows, columns = np.zeros((1, LAYERS, 3)), np.ones((2, LAYERS, 3))
    mix_styles(rows, columns, dict.fromkeys(range(LAYERS), 1.0))
    assert not rows.any()
    assert columns.all()
