import pytest

from service.api.problems import Problem
from service.api.rate_limits import (
    LocalBuckets,
    LocalTokens,
    PixelAccount,
    RateLimiter,
    TokenBucket,
)
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def refusal(function, *arguments):
    with pytest.raises(Problem) as raised:
        function(*arguments)
    return raised.value


def test_bucket_refills_within_a_minute(clock):
    bucket = TokenBucket(600, LocalTokens(600, clock))
    bucket.take(600)
    refused = refusal(bucket.take, 1)
    assert refused.status == 429
    assert refused.headers()["retry-after"] == "1"
    clock.now += 30
    assert bucket.available == 300
    bucket.take(300)
    clock.now += 600
    # The bucket never holds more than the pixels of one minute.
    assert bucket.available == 600


def test_rejects_more_than_the_bucket_holds(clock):
    bucket = TokenBucket(600, LocalTokens(600, clock))
    assert refusal(bucket.take, 601).status == 422
    assert bucket.available == 600


def test_headers_state_the_remaining_pixels(clock):
    bucket = TokenBucket(600, LocalTokens(600, clock))
    bucket.take(150)
    assert bucket.headers() == {
        "ratelimit-limit": "600",
        "ratelimit-remaining": "450",
        "ratelimit-reset": "15",
    }


def test_close_returns_reserved_pixels(clock):
    bucket = TokenBucket(600, LocalTokens(600, clock))
    account = PixelAccount(bucket)
    account.reserve(500)
    account.charge(200)
    assert bucket.available == 100
    account.refund(50)
    account.close()
    assert bucket.available == 450
    account.close()
    assert bucket.available == 450


def test_charging_more_than_reserved_takes_the_rest(clock):
    bucket = TokenBucket(600, LocalTokens(600, clock))
    account = PixelAccount(bucket)
    account.reserve(100)
    account.charge(300)
    assert bucket.available == 300
    assert refusal(account.charge, 301).status == 429
    account.close()
    assert bucket.available == 300


def test_account_without_rate_limit_accepts_everything():
    account = PixelAccount(None)
    account.reserve(10**12)
    account.charge(10**12)
    account.close()


def test_each_client_has_its_own_bucket(clock):
    limiter = RateLimiter(LocalBuckets(clock))
    limiter.bucket("a", 600).take(600)
    assert limiter.bucket("b", 600).available == 600
    assert limiter.bucket("a", 600).available == 0
    assert limiter.bucket("a", None) is None


def test_changed_rate_starts_with_a_full_bucket(clock):
    limiter = RateLimiter(LocalBuckets(clock))
    limiter.bucket("a", 600).take(600)
    assert limiter.bucket("a", 700).available == 700


def test_full_buckets_are_dropped(clock):
    buckets = LocalBuckets(clock)
    limiter = RateLimiter(buckets)
    for client in range(5000):
        limiter.bucket(client, 600)
    assert len(buckets) < 5000
    limiter.bucket("busy", 600).take(600)
    for client in range(20_000, 50_000):
        limiter.bucket(client, 600)
    assert limiter.bucket("busy", 600).available == 0
