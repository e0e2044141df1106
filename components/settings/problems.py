"""What can be wrong with a stack's settings, said by key, with the remedy."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One wrong setting. key: dotted, without the project's name; remedy: what to do."""

    key: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"gridhub:{self.key}: {self.message}{remedy}"


class SettingsError(ValueError):
    """The stack's settings cannot be used; `problems` holds every reason, sorted by key."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        noun = "setting is" if count == 1 else "settings are"
        super().__init__(f"{count} {noun} wrong; nothing was changed:{lines}")
