"""What an operator has to say before a name that is another master's is followed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sync.agent.job import JobFailed
from sync.agent.master.identity import FILE, Followed, follow
from sync.contract.spec import KernelsSpec

MIRRORED: dict[str, float | None] = {"a": 1.0}
OTHER: dict[str, float | None] = {"b": 1.0}
FOLLOWED = Followed(source="http://a", sources=["http://a"], identity="http://a", confirmation=1)


def spec(confirmation: int, sources: Sequence[str]) -> KernelsSpec:
    return KernelsSpec(stack="t", sources=list(sources), removal_confirmation=confirmation)


@pytest.mark.parametrize(
    ("record", "confirmation", "sources", "goes_on"),
    [
        # A state of the release before has none.
        (None, 0, ["http://b"], False),
        (None, 1, ["http://b"], False),
        (b"{", 1, ["http://b"], False),
        (FOLLOWED.model_dump_json().encode(), 1, ["http://b", "http://a"], False),
        (FOLLOWED.model_dump_json().encode(), 0, ["http://b", "http://a"], False),
        (FOLLOWED.model_dump_json().encode(), 2, ["http://b", "http://a"], True),
        (FOLLOWED.model_dump_json().encode(), 1, ["http://b"], True),
    ],
    ids=[
        "no record",
        "no record, a number of long ago",
        "a damaged record, a number of long ago",
        "the number on record",
        "a lower number",
        "a higher number",
        "none of the old names",
    ],
)
def test_another_master_is_followed_only_by_a_new_word_of_the_operator(
    record: bytes | None, confirmation: int, sources: list[str], *, goes_on: bool, tmp_path: Path
) -> None:
    if record is not None:
        (tmp_path / FILE).write_bytes(record)
    wanted = spec(confirmation, sources)
    if goes_on:
        assert follow(wanted, tmp_path, "http://b", MIRRORED, OTHER) == "http://b"
        return
    for _ in range(2):
        with pytest.raises(JobFailed, match="removalConfirmation"):
            follow(wanted, tmp_path, "http://b", MIRRORED, OTHER)
    # What the message asks for helps.
    assert follow(spec(2, sources), tmp_path, "http://b", MIRRORED, OTHER) == "http://b"
    with pytest.raises(JobFailed):
        follow(spec(2, [*sources, "http://c"]), tmp_path, "http://c", MIRRORED, OTHER)


@pytest.mark.parametrize("confirmation", [0, 3])
def test_the_first_pass_after_an_upgrade_goes_on_with_what_it_has(
    confirmation: int, tmp_path: Path
) -> None:
    assert (
        follow(spec(confirmation, ["http://a"]), tmp_path, "http://a", MIRRORED, MIRRORED)
        == "http://a"
    )
    assert Followed.load(tmp_path) == FOLLOWED.model_copy(update={"confirmation": confirmation})
