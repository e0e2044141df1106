"""Processes of a deployment end when whoever started them was killed."""

import os
import threading
import time

_POLL_SECONDS = 1.0


def end_with_parent() -> None:
    """End this process (exit code 1) within a second of its parent's death."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
