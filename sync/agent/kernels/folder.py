"""The mirror's kernel folder: what is served from it, and files that get their public names."""

import os
import stat
from pathlib import Path

from sync.agent import durable
from sync.agent.kernels.fetcher import Fetched
from sync.agent.kernels.listing import NET


class KernelFolder:
    """The folder that 0-bootstrap serves as kernel-path, with net/ below it.

    empty_staging: remove what a killed process left there (the one that publishes does).
    """

    def __init__(self, root: Path, *, empty_staging: bool = True) -> None:
        self.root = root
        (root / NET).mkdir(exist_ok=True)
        self.staging = durable.staging_directory(root) if empty_staging else root / durable.STAGING

    def names(self) -> set[str]:
        """Return the names of the regular files that are served as kernels."""
        with os.scandir(self.root) as entries:
            return {
                entry.name
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
            }

    def holds(self, path: str, size_bytes: int | None) -> bool:
        """Return whether a regular file of that size is there."""
        try:
            status = (self.root / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes

    def publish(self, path: str, fetched: Fetched) -> None:
        """Serve a fetched file, with the master's mtime (a chained mirror lists it)."""
        times = (fetched.row.modified_seconds, fetched.row.updated_seconds)
        mtime = next((seconds for seconds in times if seconds is not None), None)
        durable.publish(fetched.path, self.root / path, mtime_seconds=mtime)
