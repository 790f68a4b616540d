import pytest

from service.api.problems import Problem
from service.api.rate_limits import Account, Allowance, Rates


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def status_of(function, *arguments):
    with pytest.raises(Problem) as refused:
        function(*arguments)
    return refused.value


def test_an_allowance_fills_again_in_a_minute(clock):
    allowance = Allowance(600, clock)
    allowance.take(600)
    refused = status_of(allowance.take, 1)
    assert refused.status == 429
    assert refused.headers()["retry-after"] == "1"
    clock.now += 30
    assert allowance.left == 300
    allowance.take(300)
    clock.now += 600
    # It never holds more than a minute's worth.
    assert allowance.left == 600


def test_what_can_never_be_had_is_no_matter_of_time(clock):
    allowance = Allowance(600, clock)
    assert status_of(allowance.take, 601).status == 422
    assert allowance.left == 600


def test_headers_say_what_is_left_and_when_it_is_whole(clock):
    allowance = Allowance(600, clock)
    allowance.take(150)
    assert allowance.headers() == {
        "ratelimit-limit": "600",
        "ratelimit-remaining": "450",
        "ratelimit-reset": "15",
    }


def test_what_was_reserved_and_not_spent_comes_back(clock):
    allowance = Allowance(600, clock)
    account = Account(allowance)
    account.reserve(500)
    account.spend(200)
    assert allowance.left == 100
    account.unspend(50)
    account.close()
    assert allowance.left == 450
    account.close()
    assert allowance.left == 450


def test_who_spends_more_than_was_reserved_takes_the_rest(clock):
    allowance = Allowance(600, clock)
    account = Account(allowance)
    account.reserve(100)
    account.spend(300)
    assert allowance.left == 300
    assert status_of(account.spend, 301).status == 429
    account.close()
    assert allowance.left == 300


def test_without_an_allowance_everything_goes():
    account = Account(None)
    account.reserve(10**12)
    account.spend(10**12)
    account.close()


def test_each_client_has_its_own_and_a_changed_one_begins_anew(clock):
    rates = Rates(clock)
    rates.of("a", 600).take(600)
    assert rates.of("b", 600).left == 600
    assert rates.of("a", 600).left == 0
    assert rates.of("a", 700).left == 700
    assert rates.of("a", None) is None


def test_clients_that_are_whole_again_are_forgotten(clock):
    rates = Rates(clock)
    for client in range(5000):
        rates.of(client, 600)
    assert len(rates._allowances) < 5000
    rates.of("busy", 600).take(600)
    for client in range(20_000, 50_000):
        rates.of(client, 600)
    assert rates.of("busy", 600).left == 0
