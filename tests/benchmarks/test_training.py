import pytest

from benchmarks.training import Ours, data_share
from tests.support.tiny_recipes import TINY
from training.recipe.loading import load_recipe


def test_share_of_data_is_a_part_of_a_turn(digits, capsys):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    row = data_share("gan-mnist", overrides, rounds=2, seconds=0.0)
    for key in ("share", "cpu_share"):
        assert 0 < row[key]["lowest"] <= row[key]["highest"] < 1
    assert 0 < row["data_ms"]["median"] < row["turn_ms"]["median"]
    assert capsys.readouterr().err.count("16 turns") == 2


def test_turn_on_a_fixed_batch_draws_none(digits):
    ours = Ours(load_recipe("gan-mnist", [*TINY["gan-mnist"], f"data.path={digits}"]))
    ours.turn_on_fixed_batch()
    assert ours.drawn_s == 0
    ours.turn()
    assert ours.drawn_s > 0
    assert ours.take_metrics()["loss_generator"] == pytest.approx(0.69, abs=2)
