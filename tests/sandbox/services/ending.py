"""How a stand-in's process ends: on SIGTERM or SIGINT, whichever thread or moment they hit."""

import signal
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def block() -> None:
    """Hold the signals back; call it before any thread is started."""
    for number in _SIGNALS:
        # Process 1 of a container gets no signal that it has no handler for.
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def wait() -> None:
    """Wait until one of them comes."""
    signal.sigwait(_SIGNALS)
