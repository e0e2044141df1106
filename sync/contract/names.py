"""The strict rules for names that come from a master before they become a path or a URL."""

import re
from typing import Final

FLIST_SUFFIX: Final = ".flist"
LONGEST_BYTES: Final = 255
_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@:~=,-]{0,199}", re.ASCII)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TAG_PREFIX: Final = ".tag-"
_SHOWN: Final = 80
# As much of a text from outside as a person reads in a line of a report. A record has 200 of them
# and more, each of whose bytes JSON may double: see freshness.LONGEST_BYTES.
LONGEST_TEXT_BYTES: Final = 800
_CUT: Final = "…"
# Flask serves a folder of the program under it: 0-hub answers 404 for every flist there.
_STATIC: Final = "static"


class RefusedNameError(ValueError):
    """A name from the master that must not become a path; `str()` says which and why."""


def _refused(kind: str, name: object, fault: str) -> RefusedNameError:
    shown = name[:_SHOWN] if isinstance(name, str) else type(name).__name__
    return RefusedNameError(f"refused {kind} name {shown!r}: {fault}")


def checked(name: object, kind: str) -> str:
    """Return `name` if it is a safe file name, else raise RefusedNameError.

    name: what the master sent, whatever its type. kind: the field's word for it (repository, flist,
    tag, link, kernel), used in the message.
    Safe is what a hub can hold and one path component can be: UTF-8 of 1 to 255 bytes without `/`
    and control characters (C0, DEL, C1), that does not start with a dot; so it is never `.`, `..`,
    hidden or absolute. Blanks, quotes, `%`, `#`, `?` and letters of all scripts are safe: names
    are kept byte for byte, percent-encoded in URLs, put into no shell, and `shown` to people.
    """
    if not isinstance(name, str):
        raise _refused(kind, name, "not a text")
    size = len(name.encode(errors="surrogatepass"))
    faults = {
        "empty": not name,
        f"longer than {LONGEST_BYTES} bytes": size > LONGEST_BYTES,
        "starts with a dot": name.startswith("."),
        "holds a slash": "/" in name,
        "not UTF-8": _SURROGATE.search(name),
        "holds a control character": _CONTROL.search(name),
    }
    for fault, there in faults.items():
        if there:
            raise _refused(kind, name, fault)
    return name


def checked_plain(name: object, kind: str) -> str:
    """Return `name` if it is a plain word, else raise RefusedNameError: for what settings name.

    A plain name is 1 to 200 ASCII letters, digits and `._+@:~=,-`, and starts with a letter, a
    digit or an underscore: so it is never hidden, an option, or percent-encoded.
    """
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise _refused(kind, name, "not a plain name")
    return name


def checked_repository(name: object) -> str:
    """Return `name` if a hub can serve a repository of that name, else raise RefusedNameError."""
    safe = checked(name, "repository")
    if safe == _STATIC:
        raise _refused("repository", safe, "a hub has its own files there")
    return safe


def checked_flist(name: object) -> str:
    """Return `name` if it is a safe name that ends in `.flist`, else raise RefusedNameError."""
    safe = checked(name, "flist")
    if not safe.endswith(FLIST_SUFFIX):
        raise _refused("flist", safe, "does not end in .flist")
    return safe


def tag_directory(tag: str) -> str:
    """Name of the directory that holds a tag inside its repository (0-hub: `.tag-T`)."""
    return _TAG_PREFIX + checked_tag(tag)


def checked_tag(name: object) -> str:
    """Return `name` if it can be a tag's, else raise RefusedNameError: its folder has a prefix."""
    safe = checked(name, "tag")
    longest = LONGEST_BYTES - len(_TAG_PREFIX)
    if len(safe.encode()) > longest:
        raise _refused("tag", safe, f"longer than {longest} bytes")
    return safe


def shown(text: str) -> str:
    """Return a text as people may read it: what a terminal would not print is escaped.

    A name may hold characters that turn the direction of writing, or no width at all.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def bounded(text: str, longest_bytes: int = LONGEST_TEXT_BYTES) -> str:
    """Return a text from outside as it is kept: `shown`, and of so many bytes of UTF-8 at most.

    What is too long lacks its middle: a message begins with its subject and ends with the remedy.
    """
    if len(text) > 2 * longest_bytes:
        text = text[:longest_bytes] + text[-longest_bytes:]
    data = shown(text).encode()
    if len(data) <= longest_bytes:
        return data.decode()
    half = longest_bytes // 2
    head, tail = data[: half - len(_CUT.encode())], data[-half:]
    return head.decode(errors="ignore") + _CUT + tail.decode(errors="ignore")
