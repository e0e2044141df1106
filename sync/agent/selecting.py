"""Which names of a master are mirrored."""

from fnmatch import fnmatchcase

from sync.contract.spec import Selection


def selects(selection: Selection, name: str) -> bool:
    """Return whether one of `include` and none of `exclude` matches `name` (shell patterns)."""
    included = any(fnmatchcase(name, pattern) for pattern in selection.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in selection.exclude)
