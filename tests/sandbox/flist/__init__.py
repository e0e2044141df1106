"""The flist format: a directory tree as a small archive whose file contents live in a 0-db.

Sources of the format: 0-flist, format/flist.capnp and libflist/. Needs the standard library only.
"""

from tests.sandbox.flist.archive import Backend, Flist, FormatError
from tests.sandbox.flist.pack import Packed, pack_directory
from tests.sandbox.flist.tree import Directory, FileChunk, Inode

__all__ = [
    "Backend",
    "Directory",
    "FileChunk",
    "Flist",
    "FormatError",
    "Inode",
    "Packed",
    "pack_directory",
]
