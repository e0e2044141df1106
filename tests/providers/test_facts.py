"""What is said of a path that is not as the stack wants it."""

import pytest

from sync.providers.host.facts import OwnedPath, PathState, drift

WANTED = OwnedPath(path="config/x", uid=7, mode=0o640)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (PathState("file", 7, 7, 0o640, "ab"), None),
        (None, "missing"),
        (PathState("directory", 7, 7, 0o640), "changed on the host"),
        (PathState("file", 7, 7, 0o640, "cd"), "changed on the host"),
        (PathState("file", 5, 5, 0o640, "ab"), "belongs to 5, mode 640 instead of 7, 640"),
        (PathState("file", 7, 5, 0o640, "ab"), "belongs to 7:5, mode 640 instead of 7, 640"),
        (PathState("file", 7, 7, 0o644, "ab"), "belongs to 7, mode 644 instead of 7, 640"),
    ],
)
def test_a_files_drift_is_one_line(found: PathState | None, words: str | None) -> None:
    seen = {"config/x": found} if found else {}
    expected = (f"config/x: {words}",) if words else ()
    assert drift([WANTED], seen, {"config/x": "ab"}) == expected


def test_a_directorys_drift_is_one_line() -> None:
    assert drift([WANTED], {"config/x": PathState("directory", 7, 7, 0o640)}) == ()
    link = PathState("other", 7, 7, 0o640)
    assert drift([WANTED], {"config/x": link}) == ("config/x: not a directory",)
