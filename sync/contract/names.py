"""The one strict rule for names that come from a master before they become a path or a URL."""

import re
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@:~=,-]{0,199}", re.ASCII)
FLIST_SUFFIX: Final = ".flist"
_TAG_PREFIX: Final = ".tag-"


class RefusedNameError(ValueError):
    """A name from the master that must not become a path; `str()` says which and why."""


def checked(name: object, kind: str) -> str:
    """Return `name` if it is one plain path component, else raise RefusedNameError.

    name: what the master sent, whatever its type. kind: the field's word for it (repository, flist,
    tag, link, kernel), used in the message.
    A name is 1 to 200 ASCII letters, digits and `._+@:~=,-`, and starts with a letter, a digit or
    an underscore: so it is never `.`, `..`, hidden, absolute, an option, or percent-encoded.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = name if isinstance(name, str) else type(name).__name__
        raise RefusedNameError(f"refused {kind} name {shown[:80]!r}: not a plain name")
    return name


def checked_flist(name: object) -> str:
    """Return `name` if it is a plain name that ends in `.flist`, else raise RefusedNameError."""
    plain = checked(name, "flist")
    if not plain.endswith(FLIST_SUFFIX) or plain == FLIST_SUFFIX:
        raise RefusedNameError(f"refused flist name {plain!r}: does not end in .flist")
    return plain


def tag_directory(tag: str) -> str:
    """Name of the directory that holds a tag inside its repository (0-hub: `.tag-T`)."""
    return _TAG_PREFIX + checked(tag, "tag")
