"""Which process the kernel ends where memory runs out: one that strangers' bytes filled.

Reader processes start without site-packages, so nothing here imports any.
"""

import contextlib
from pathlib import Path
from typing import Final

_FIRST: Final = "1000"


def die_first() -> None:
    """Have the kernel end this process before the job itself where memory runs out.

    For processes that read what strangers made: the job outlives them and says what happened.
    """
    # Everybody may raise the value of an own process (Linux: Documentation/filesystems/proc.rst,
    # oom_score_adj); where there is no such file nothing is lost.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST)
