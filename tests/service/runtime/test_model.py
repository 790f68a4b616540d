import numpy as np
import pytest

from service.runtime.model import Model
from service.runtime.sessions import ExecutionPlan, Provider
from tests.conftest import TINY

PLANS = [ExecutionPlan(1, threads, 64) for threads in (1, 2)]


@pytest.mark.parametrize("name", TINY)
def test_a_batch_equals_its_rows_one_by_one_with_any_number_of_threads(repository, name):
    seeds = list(range(40))
    expected = None
    for plan in PLANS:
        model = Model(repository / name / "1", Provider.CPU, plan)
        rows = np.concatenate([model.generate([seed]) for seed in seeds])
        for size in (1, 2, 7, 32, 40):
            batches = [model.generate(seeds[i : i + size]) for i in range(0, len(seeds), size)]
            np.testing.assert_array_equal(np.concatenate(batches), rows)
        expected = rows if expected is None else expected
        np.testing.assert_array_equal(rows, expected)


def test_without_a_class_seeds_in_a_row_show_every_class_in_turn(repository):
    model = Model(repository / "cgan-fashion" / "1", Provider.CPU, PLANS[0])
    assert model.classes_of([0, 9, 10, 25]) == [0, 9, 0, 5]
    np.testing.assert_array_equal(model.generate([25]), model.generate([25], [5]))
    assert not np.array_equal(model.generate([25], [5]), model.generate([25], [6]))
    unconditional = Model(repository / "gan-mnist" / "1", Provider.CPU, PLANS[0])
    assert unconditional.classes_of([1]) is None


@pytest.mark.parametrize("name", TINY)
def test_other_seeds_give_other_pictures(repository, name):
    model = Model(repository / name / "1", Provider.CPU, PLANS[0])
    pixels = model.generate(range(20))
    assert len(np.unique(pixels.reshape(20, -1), axis=0)) == 20
