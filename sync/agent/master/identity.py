"""Whether another name of the master leads to the same one, by the listing.

Neither a hub nor a bootstrap server says who it is, and its name may change. All that is known of
it are the names and times that were mirrored: a master that lists less than half of them, as new
or newer, is taken for another one. Anything less is for the deletion guard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sync.agent import durable
from sync.agent.job import JobFailed
from sync.contract.spec import KernelsSpec, UsersSpec

FILE: Final = "followed.json"
# One name may say whole seconds, as 0-hub does (flist-uploader.py), another one a fraction.
_CLOCK_SECONDS: Final = 1.0
AnyName = TypeVar("AnyName")


@dataclass(frozen=True)
class Evidence(Generic[AnyName]):
    """Names that are mirrored, and that the master lists now, by their time of change.

    Unix seconds; None where nobody said it.
    """

    mirrored: Mapping[AnyName, float | None]
    listed: Mapping[AnyName, float | None]

    def agrees(self) -> bool:
        """Return whether at least half of the mirrored names are listed as old as here or newer."""
        alike = sum(1 for name, here in self.mirrored.items() if self._is_alike(name, here))
        # Any master agrees with a mirror that has nothing yet.
        return alike * 2 >= len(self.mirrored)

    def _is_alike(self, name: AnyName, here: float | None) -> bool:
        if name not in self.listed:
            return False
        there = self.listed[name]
        return here is None or there is None or there >= here - _CLOCK_SECONDS


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
            return cls.model_validate_json((state / FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    def accepting(
        self, spec: UsersSpec | KernelsSpec, source: str, evidence: Evidence[AnyName]
    ) -> "Followed":
        """Return the state to save once `source` has listed as the evidence says.

        Raises JobFailed where a name turns out to be another master's, which nobody asked for. To
        name none of the old names any more is to ask for it, and so is to confirm it.
        """
        # A list that shares no name with the old one is the operator's word (docs/adr/0008).
        chosen = bool(self.sources) and set(self.sources).isdisjoint(spec.sources)
        chosen = chosen or spec.removal_confirmation > self.confirmation
        same = source == self.source or evidence.agrees()
        if not same and not chosen:
            before = f" as {self.source}" if self.source else ""
            raise JobFailed(
                f"the master {source} is another one than was followed until now{before}: it lists "
                "less than half of what is mirrored; nothing is changed here. Correct the source; "
                "if this master is right, raise removalConfirmation by one"
            )
        return Followed(
            source=source,
            sources=spec.sources,
            identity=self.identity if same and self.identity else source,
            confirmation=spec.removal_confirmation,
        )

    def save(self, state: Path, before: "Followed | None") -> None:
        """Write it where it differs from `before`. Raises OSError."""
        if self != before:
            durable.publish_bytes((self.model_dump_json() + "\n").encode(), state / FILE)


def follow(
    spec: UsersSpec | KernelsSpec, state: Path, source: str, evidence: Evidence[AnyName]
) -> str:
    """Check that `source` is the master that is followed, save it, return its identity.

    Raises JobFailed where it is another one.
    """
    saved = Followed.load(state)
    # A confirmation given before anything was saved meant something else. It is saved before the
    # check, so that a number which the operator raises because of it is a new one.
    before = saved or Followed(confirmation=spec.removal_confirmation)
    before.save(state, saved)
    now = before.accepting(spec, source, evidence)
    now.save(state, before)
    return now.identity
