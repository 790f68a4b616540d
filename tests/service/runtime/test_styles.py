import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.styles import mix

LAYERS = 5


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    taken=st.lists(st.integers(0, LAYERS - 1), min_size=1, unique=True),
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
                source = column_styles[j] if layer in taken else row_styles[i]
                assert (mixed[i * columns + j, layer] == source[layer]).all()


def test_the_sources_are_left_as_they_were():
    rows, columns = np.zeros((1, LAYERS, 3)), np.ones((2, LAYERS, 3))
    mix(rows, columns, range(LAYERS))
    assert not rows.any()
    assert columns.all()
