"""How long is waited after a failure."""

from sync.agent.backoff import BackoffClock
from sync.contract.spec import Backoff


def test_backoff_doubles_to_its_longest_obeys_the_master_and_starts_anew() -> None:
    clock = BackoffClock(Backoff(first_seconds=1, longest_seconds=8))
    waits = [clock.after_failure() for _ in range(60)]
    for wait, longest in zip(waits, [1, 2, 4, 8, 8], strict=False):
        assert longest / 2 <= wait <= longest
    assert max(waits) <= 8
    assert clock.after_failure(at_least_seconds=30) == 30
    clock.after_success()
    assert clock.after_failure() <= 1
