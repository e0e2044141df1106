"""What a target of the fuzzer is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORDINGS: Final = Path(__file__).parents[1] / "golden" / "services"


class BrokenPromiseError(AssertionError):
    """A reader accepted what it promises to refuse, or gave what it promises not to give."""


@dataclass(frozen=True)
class Target:
    """A reader of outside data.

    run: reads some bytes in a scratch folder. It returns for whatever the reader accepts or refuses
    as documented, and raises for anything else. seeds: whole examples, to be mutated. words: what
    the format is made of, which mutation would not find.
    """

    name: str
    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()


def promise(kept: object, words: str) -> None:
    """Raise BrokenPromiseError unless `kept`."""
    if not kept:
        raise BrokenPromiseError(words)
