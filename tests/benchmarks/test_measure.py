import json

import pytest

from benchmarks.measure import Spread, in_turns, machine, ratios, report, seconds


def test_variants_rotate_between_rounds():
    order = []
    variants = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    figures = in_turns(variants, rounds=3)
    assert figures == {name: [1.0] * 3 for name in "abc"}
    assert "".join(order) == "abcbcacab"


def test_ratios_compare_the_same_round():
    # The ratio does not change if the machine is half as fast in the second round.
    spread = ratios([32.0, 15.0, 31.0], [10.0, 5.0, 10.0])
    assert (spread.median, spread.lowest, spread.highest) == (3.1, 3.0, 3.2)
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_work_is_repeated_at_least_as_often_as_requested():
    runs = []
    assert seconds(lambda: runs.append(1), at_least_s=0.0, min_runs=5) >= 0
    assert len(runs) == 5


def test_spread_format_and_json():
    spread = Spread.of([3.0, 1.0, 2.0])
    assert f"{spread:.1f}" == "2.0 (1.0 to 3.0)"
    assert Spread(**json.loads(json.dumps(spread.as_json()))) == spread


def test_json_output_names_the_machine(capsys):
    report({"machine": machine(["numpy", "no-such-package"])}, [], as_json=True)
    printed = json.loads(capsys.readouterr().out)["machine"]
    assert printed["cpus"] >= 1
    assert printed["numpy"]
    assert printed["no-such-package"] is None
