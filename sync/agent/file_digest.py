"""The MD5 by which masters describe files: of a file that is here."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its MD5 (hex). Raises OSError."""
    with path.open("rb") as file:
        # 0-hub describes a flist by its MD5 (flist-uploader.py, /light); it is no safeguard here.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return file.tell(), digest.hexdigest()
