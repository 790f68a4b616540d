import multiprocessing

import pytest

from service.api.problems import Problem
from service.api.rate_limits import PixelAccount, RateLimiter
from service.processes.token_table import TokenTable
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def limiters(tmp_path, clock):
    """Two limiters of one server, as two processes have them."""
    return [RateLimiter(TokenTable(tmp_path / "limits", clock=clock)) for _ in range(2)]


def take_all(path, taken):
    bucket = RateLimiter(TokenTable(path, clock=ManualClock())).bucket("client", 3_000)
    count = 0
    while True:
        try:
            bucket.take(1)
        except Problem:
            break
        count += 1
    taken.put(count)


def test_limit_is_exact_over_several_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    taken = context.Queue()
    path = tmp_path / "limits"
    processes = [context.Process(target=take_all, args=(path, taken)) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [taken.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == 3_000


def test_all_processes_see_what_one_takes(limiters, clock):
    first, second = (limiter.bucket("client", 600) for limiter in limiters)
    first.take(450)
    assert second.headers() == {
        "ratelimit-limit": "600",
        "ratelimit-remaining": "150",
        "ratelimit-reset": "45",
    }
    with pytest.raises(Problem) as refused:
        second.take(200)
    assert refused.value.status == 429
    assert refused.value.headers()["retry-after"] == "5"
    clock.now += 5
    second.take(200)
    assert first.available == 0


def test_reserved_pixels_return_to_all_processes(limiters):
    account = PixelAccount(limiters[0].bucket("client", 600))
    account.reserve(500)
    account.charge(200)
    assert limiters[1].bucket("client", 600).available == 100
    account.close()
    assert limiters[1].bucket("client", 600).available == 400


def test_bucket_never_holds_more_than_its_limit(limiters, clock):
    bucket = limiters[0].bucket("client", 600)
    bucket.take(100)
    bucket.put_back(300)
    assert bucket.available == 600
    bucket.take(600)
    clock.now += 3600
    assert bucket.available == 600


def test_changed_rate_starts_with_a_full_bucket(limiters):
    limiters[0].bucket("client", 600).take(600)
    assert limiters[1].bucket("client", 700).available == 700
    limiters[1].bucket("client", 700).take(100)
    assert limiters[0].bucket("client", 700).available == 600


def test_clients_do_not_share_a_bucket(limiters):
    limiters[0].bucket("a", 600).take(600)
    assert limiters[1].bucket("b", 600).available == 600
    assert limiters[1].bucket("a", 600).available == 0


def test_full_buckets_give_way_to_other_clients(tmp_path, clock):
    limiter = RateLimiter(TokenTable(tmp_path / "limits", slots=64, clock=clock))
    for client in range(10):
        limiter.bucket(client, 600).take(600)
    clock.now += 30
    for client in range(1000, 1010):
        limiter.bucket(client, 600).take(600)
    for _ in range(40):
        clock.now += 30
        # All earlier buckets except the last are full by now.
        for client in range(5):
            limiter.bucket(clock.now * 100 + client, 600).take(600)
            assert limiter.bucket(clock.now * 100 + client, 600).available == 0


def test_crowded_table_gives_up_the_fullest_bucket(tmp_path, clock):
    limiter = RateLimiter(TokenTable(tmp_path / "limits", slots=32, clock=clock))
    limiter.bucket("light", 600).take(1)
    for client in range(31):
        limiter.bucket(client, 600).take(600)
    limiter.bucket("new", 600).take(600)
    assert limiter.bucket("light", 600).available == 600
    assert all(limiter.bucket(client, 600).available == 0 for client in [*range(31), "new"])
