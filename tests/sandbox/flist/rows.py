"""In which order zflist writes the rows of a flist, and under which numbers.

Source: 0-flist, zflist/actions.c (zf_init), libflist/flist_inode.c (flist_inode_from_localdir),
flist_serial.c (flist_serial_commit_dirnode). It matters: g8ufs makes its inodes of row numbers and
takes 1 for the root (rfs 1.1.1, src/meta/mod.rs), so the first row must be no directory but it.
"""

from collections.abc import Iterable

from tests.sandbox.flist.tree import Directory, Inode


class _Rows:
    """Numbers as SQLite gives them: a new row gets the highest number that there is, plus one."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, key: str) -> None:
        if key not in self.numbers:
            last = next(reversed(self.numbers.values()), 0)
            self.numbers[key] = last + 1

    def write(self, directory: Directory, inodes: Iterable[Inode]) -> None:
        """Write a directory, behind the access records that it and these inodes name."""
        self.add(directory.access_key)
        for inode in inodes:
            self.add(inode.access_key)
        self.numbers.pop(directory.key, None)
        self.add(directory.key)


def row_numbers(directories: Iterable[Directory]) -> dict[str, int]:
    """Return the row of each directory and access record of a whole tree, by key, in their order.

    directories: the root first; each names those in it before its other entries, by name.
    """
    tree = {directory.key: directory for directory in directories}
    root = next(iter(tree.values()))
    rows = _Rows()
    rows.write(root, [])
    _make(rows, root, tree)
    _fill(rows, root, tree)
    return rows.numbers


def _inside(directory: Directory) -> list[Inode]:
    return [inode for inode in directory.inodes if inode.kind == "directory"]


def _make(rows: _Rows, parent: Directory, tree: dict[str, Directory]) -> None:
    """Make the directories below one, still empty: each is written, its parent, itself again."""
    made: list[Inode] = []
    for inode in _inside(parent):
        made.append(inode)
        child = tree[inode.directory_key]
        rows.write(child, [])
        rows.write(parent, made)
        rows.write(child, [])
        _make(rows, child, tree)


def _fill(rows: _Rows, directory: Directory, tree: dict[str, Directory]) -> None:
    """Write directories with all their entries, those in them first."""
    for inode in _inside(directory):
        _fill(rows, tree[inode.directory_key], tree)
    rows.write(directory, directory.inodes)
