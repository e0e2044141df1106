"""fsync, and where it goes on without: file systems that have none for a file or for a folder."""

import errno
import logging
import os
from collections.abc import Callable
from typing import Final

_LOG: Final = logging.getLogger(__name__)
# "Does not support synchronization" (fsync(2), EINVAL), and what servers behind FUSE, 9p and CIFS
# answer who have no such request. Anything else (EIO, ENOSPC) says that data are not on the disk.
CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_said: set[int] = set()  # devices


def fsync(descriptor: int, name: object, synchronize: Callable[[int], None] | None = None) -> bool:
    """Make a file's content, or a folder's names, durable; False where its file system cannot.

    name: for the log, once for each file system. synchronize: os.fsync, or os.fdatasync.
    Raises OSError.
    """
    try:
        (synchronize or os.fsync)(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        device = os.fstat(descriptor).st_dev
        if device not in _said:
            _said.add(device)
            _LOG.warning(
                "%s: its file system refuses fsync (%s): what was written last may be lost when "
                "the power fails; put the data root on ext4, XFS or Btrfs",
                name,
                error.strerror,
            )
        return False
    return True
