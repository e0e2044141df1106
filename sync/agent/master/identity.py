"""Whether another name of the master leads to the same one, by the listing.

Neither a hub nor a bootstrap server says who it is, and its name may change. All that is known of
it are the names and times that were mirrored: a master that lists less than half of them, as new
or newer, is taken for another one. Anything less is for the deletion guard.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sync.agent import durable
from sync.agent.job import JobFailed
from sync.contract import plain_files
from sync.contract.spec import KernelsSpec, UsersSpec

FILE: Final = "followed.json"
_LONGEST_BYTES: Final = 1 << 20
# One name may say whole seconds, as 0-hub does (flist-uploader.py), another one a fraction.
_CLOCK_SECONDS: Final = 1.0
AnyName = TypeVar("AnyName")


def agrees(
    mirrored: Mapping[AnyName, float | None], listed: Mapping[AnyName, float | None]
) -> bool:
    """Return whether at least half of the mirrored names are listed as old as here or newer.

    Both give the names' times of change: unix seconds, None where nobody said it.
    """
    both = ((mirrored[name], listed[name]) for name in mirrored.keys() & listed.keys())
    alike = sum(
        here is None or there is None or there >= here - _CLOCK_SECONDS for here, there in both
    )
    # Any master agrees with a mirror that has nothing yet.
    return alike * 2 >= len(mirrored)


class Followed(BaseModel):
    """The master that is followed: the name it was followed by last, and all of its names.

    identity: the name by which it was first followed. confirmation: the removalConfirmation then.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    source: str = ""
    sources: list[str] = []
    identity: str = ""
    confirmation: int = 0

    @classmethod
    def load(cls, state: Path) -> "Followed | None":
        """Read it from the state directory; None where there is none."""
        try:
            return cls.model_validate_json(plain_files.read(state / FILE, _LONGEST_BYTES))
        except (OSError, ValidationError):
            return None

    def save(self, state: Path, before: "Followed | None") -> None:
        """Write it where it differs from `before`. Raises OSError."""
        if self != before:
            durable.publish_bytes((self.model_dump_json() + "\n").encode(), state / FILE)


def follow(
    spec: UsersSpec | KernelsSpec,
    state: Path,
    source: str,
    mirrored: Mapping[AnyName, float | None],
    listed: Mapping[AnyName, float | None],
) -> str:
    """Check that `source`, with its listing, is the master that is followed; return its identity.

    The master is saved. Raises JobFailed where a name turns out to be another master's, which
    nobody asked for. To name none of the old names any more is to ask for it, and so is to confirm
    it.
    """
    saved = Followed.load(state)
    # A confirmation given before anything was saved meant something else. It is saved before the
    # check, so that a number which the operator raises because of it is a new one.
    before = saved or Followed(confirmation=spec.removal_confirmation)
    before.save(state, saved)
    # A list that shares no name with the old one is the operator's word (docs/adr/0008).
    chosen = bool(before.sources) and set(before.sources).isdisjoint(spec.sources)
    chosen = chosen or spec.removal_confirmation > before.confirmation
    same = source == before.source or agrees(mirrored, listed)
    if not same and not chosen:
        name = f" as {before.source}" if before.source else ""
        raise JobFailed(
            f"the master {source} is another one than was followed until now{name}: it lists "
            "less than half of what is mirrored; nothing is changed here. Correct the source; "
            "if this master is right, raise removalConfirmation by one"
        )
    identity = before.identity if same and before.identity else source
    confirmed = spec.removal_confirmation
    now = Followed(source=source, sources=spec.sources, identity=identity, confirmation=confirmed)
    now.save(state, before)
    return identity
