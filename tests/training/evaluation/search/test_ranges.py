import pytest
import yaml

from training.evaluation.search.ranges import SearchRange, as_yaml


@pytest.mark.parametrize(
    "value", [1e-5, 3e-4, 1e30, 0.5, 7, True, False, "hinge", "it's", "1e-5", "null"]
)
def test_values_survive_yaml(value):
    read = yaml.safe_load(as_yaml(value))
    assert read == value
    assert type(read) is type(value)


def test_range_contains_numbers_between_its_limits():
    numbers = SearchRange(low=1, high=5)
    assert numbers.contains(5)
    assert not numbers.contains(6)
    assert not numbers.contains(True)


def test_choices_contain_only_themselves():
    names = SearchRange(choices=("hinge", "minimax"))
    assert names.contains("hinge")
    assert not names.contains("wasserstein")
