import torch

from training.distributed import DistributedContext
from training.games.balance import Balance, BalanceOptions

EASY, HARD = torch.tensor(1.0), torch.tensor(0.5)


def balance(**options) -> Balance:
    return Balance(BalanceOptions(**options), DistributedContext(), torch.device("cpu"))


def generator_turns(balance, separation, turns) -> int:
    return sum(balance.generator_is_due(separation) for _ in range(turns))


def test_good_discriminator_takes_one_step_per_turn():
    assert generator_turns(balance(), EASY, 40) == 40


def test_weak_discriminator_gets_more_steps_up_to_the_limit():
    game_balance = balance(most=3)
    generator_turns(game_balance, HARD, 100)
    assert game_balance.steps == 3
    assert generator_turns(game_balance, HARD, 30) == 10


def test_recovered_discriminator_loses_extra_steps():
    game_balance = balance()
    generator_turns(game_balance, HARD, 100)
    generator_turns(game_balance, EASY, 100)
    assert game_balance.steps == 1


def test_fractional_steps_alternate():
    game_balance = balance()
    game_balance.steps = 2.5
    assert [game_balance.generator_is_due(HARD) for _ in range(3)].count(True) == 1


def test_resumed_balance_continues_identically():
    first, second = balance(), balance()
    separations = [EASY, HARD, HARD, HARD, HARD] * 20
    for separation in separations[:37]:
        assert first.generator_is_due(separation) == second.generator_is_due(separation)
    resumed = balance()
    resumed.load_state_dict(second.state_dict())
    for separation in separations[37:]:
        assert first.generator_is_due(separation) == resumed.generator_is_due(separation)
    assert first.state_dict() == resumed.state_dict()
