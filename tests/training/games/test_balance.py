import torch

from training.distributed import DistributedContext
from training.games.balance import Balance, BalanceOptions

EASY, HARD = torch.tensor(1.0), torch.tensor(0.5)


def balance(**options) -> Balance:
    return Balance(BalanceOptions(**options), DistributedContext(), torch.device("cpu"))


def generator_turns(balance, separation, turns) -> int:
    return sum(balance.generator_is_due(separation) for _ in range(turns))


def test_a_discriminator_that_can_tell_takes_one_step_for_each_of_the_generator():
    assert generator_turns(balance(), EASY, 40) == 40


def test_one_that_cannot_tell_gets_more_steps_up_to_the_most():
    players = balance(most=3)
    generator_turns(players, HARD, 100)
    assert players.steps == 3
    assert generator_turns(players, HARD, 30) == 10


def test_one_that_can_tell_again_loses_them():
    players = balance()
    generator_turns(players, HARD, 100)
    generator_turns(players, EASY, 100)
    assert players.steps == 1


def test_what_is_half_way_between_two_numbers_of_steps_alternates():
    players = balance()
    players.steps = 2.5
    assert [players.generator_is_due(HARD) for _ in range(3)].count(True) == 1


def test_a_balance_that_goes_on_says_what_the_other_would_have_said():
    unbroken, broken = balance(), balance()
    shown = [EASY, HARD, HARD, HARD, HARD] * 20
    for separation in shown[:37]:
        assert unbroken.generator_is_due(separation) == broken.generator_is_due(separation)
    resumed = balance()
    resumed.load_state_dict(broken.state_dict())
    for separation in shown[37:]:
        assert unbroken.generator_is_due(separation) == resumed.generator_is_due(separation)
    assert unbroken.state_dict() == resumed.state_dict()
