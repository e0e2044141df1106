"""The sandbox's engine does, step by step, what the real Pulumi engine was recorded doing."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

from tests.sandbox.compare.cases import BY_NAME
from tests.sandbox.compare.command import load_recorded, own_results, pool
from tests.sandbox.compare.differences import differences
from tests.sandbox.compare.harness import Result

_TIMEOUT_SECONDS = 600

Results = dict[str, futures.Future[list[Result]]]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """Run the chosen cases side by side."""
    chosen = [name for item in request.session.items for name in _case_of(item)]
    with pool() as workers:
        yield {name: workers.submit(own_results, name) for name in chosen}


def _case_of(item: pytest.Item) -> list[str]:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    ours = item.path == Path(__file__)
    return [parameters["case"]] if ours and "case" in parameters else []


@pytest.mark.parametrize("case", sorted(BY_NAME))
def test_steps_messages_calls_and_state_are_those_of_the_real_engine(
    case: str, results: Results
) -> None:
    recorded = load_recorded(case)
    found = differences(recorded["runs"], results[case].result(timeout=_TIMEOUT_SECONDS))
    assert not found, f"against {recorded['version']}:\n" + "\n".join(found)


def test_at_least_forty_cases_are_recorded() -> None:
    versions = {load_recorded(name)["version"] for name in BY_NAME}
    assert len(BY_NAME) >= 40
    assert len(versions) == 1
