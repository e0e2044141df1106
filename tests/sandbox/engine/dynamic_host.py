"""Runs the dynamic provider of the `pulumi` wheel, and ends it where the engine was killed.

Executed by the program's own interpreter in place of `python -m pulumi.dynamic ENGINE`.
"""

import os
import runpy
import sys
import threading
import time


def _end_with_the_engine() -> None:
    engine = os.getppid()
    while os.getppid() == engine:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    # As with -m: providers are imported from the program's directory, never from the engine's.
    sys.path[0] = os.getcwd()  # noqa: PTH109 - a string is wanted
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
