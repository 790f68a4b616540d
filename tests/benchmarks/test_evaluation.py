import pytest

from benchmarks.evaluation import largest_difference, steps


def result(**values: float) -> dict[str, object]:
    return {"figures": [{"metric": "KID", **values}, {"metric": "recall", "value": 0.5}]}


def test_differences_are_relative_and_of_every_field():
    assert largest_difference(result(value=1.0), result(value=1.0)) == 0
    assert largest_difference(result(value=2.0), result(value=1.0)) == 0.5
    one, other = result(value=1.0, low=-0.1), result(value=1.0, low=-0.2)
    assert largest_difference(one, other) == largest_difference(other, one) == 0.5


def test_missing_figures_are_reported():
    with pytest.raises(SystemExit, match="low in one of the results only"):
        largest_difference(result(value=1.0, low=0.0), result(value=1.0))
    with pytest.raises(SystemExit, match=r"the figures differ: \['recall'\]"):
        largest_difference(result(value=1.0), {"figures": [{"metric": "KID", "value": 1.0}]})


def test_steps_measure_the_same_samples_only_where_they_say_so():
    cold, more, again, other, equal = steps(300, 1000).values()
    assert cold == ("--samples", "300")
    assert more == again == ("--samples", "1000")
    assert other == ("--samples", "1000", "--seed", "10000")
    assert equal[:2] == cold
    assert "--reference" in equal
