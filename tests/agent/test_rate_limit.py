"""A bucket hands out its rate and no more."""

import pytest

from sync.agent.rate_limit import TokenBucket


def test_token_bucket_holds_the_rate_over_time() -> None:
    now = [0.0]
    bucket = TokenBucket(rate=10, burst=5, clock=lambda: now[0])
    assert [bucket.take(1) for _ in range(5)] == [0] * 5
    for number in range(1, 11):
        assert bucket.take(1) == pytest.approx(number / 10)
    now[0] += 100
    assert bucket.take(5) == 0
    assert bucket.take(1) > 0
