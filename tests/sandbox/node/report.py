"""What a visit of a node tells: what was asked, what came, and what failed, in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class NodeError(Exception):
    """Something that a node could not go on from; str() names it.

    unseen: a node itself would not notice, and run something else than what the master has.
    """

    def __init__(self, words: str, *, unseen: bool = False) -> None:
        super().__init__(words)
        self.unseen = unseen


@dataclass(frozen=True)
class Asked:
    """One request and its answer, both in words."""

    what: str
    answer: str


@dataclass(frozen=True)
class Failure:
    """One thing that went wrong. unseen: see NodeError."""

    words: str
    unseen: bool = False

    def __str__(self) -> str:
        return f"{self.words} (a node would not notice)" if self.unseen else self.words


@dataclass
class Phase:
    """One step of a node's life at a mirror. family: 4, 6, or None for whichever there is.

    done: how many kernels or flists were read whole. defaulted: flists that name no backend, so
    that the node's own default was asked.
    """

    name: str
    family: int | None = None
    asked: list[Asked] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0
    defaulted: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The phase and its family."""
        return self.name if self.family is None else f"{self.name} over IPv{self.family}"

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def note(self, what: str, answer: str) -> None:
        """Record a request."""
        self.asked.append(Asked(what, answer))

    def fail(self, words: str, *, unseen: bool = False) -> None:
        """Record a failure after which the phase goes on."""
        self.failures.append(Failure(words, unseen))

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Record what ends the block early."""
        try:
            yield
        except NodeError as error:
            self.fail(str(error), unseen=error.unseen)

    def summary(self) -> str:
        """Return one line: what was asked and read, or how much failed."""
        told = f"{len(self.asked)} requests, {self.done} read whole"
        if self.defaulted:
            told += f", {len(self.defaulted)} without a backend"
        return told if self.ok else f"{told}, {len(self.failures)} failed"


@dataclass(frozen=True)
class Report:
    """A whole visit."""

    phases: tuple[Phase, ...]

    @property
    def ok(self) -> bool:
        """Whether a node lives from this mirror."""
        return all(phase.ok for phase in self.phases)

    def phase(self, name: str) -> Phase:
        """Return the first phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)

    def failures(self) -> list[str]:
        """Return every failure with its phase."""
        return [f"{phase.title}: {failed}" for phase in self.phases for failed in phase.failures]

    def check(self) -> None:
        """Raise NodeError with every failure, if there is one."""
        if not self.ok:
            raise NodeError("\n".join(self.failures()))
