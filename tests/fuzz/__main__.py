"""`python -m tests.fuzz [--minutes M] [TARGET …]`: fuzz targets side by side, and say what came.

Corpora grow in build/fuzz/TARGET/corpus, so that the next run begins where this one ended. Ends
with 1 where there was a finding; the input stands in build/fuzz/TARGET/findings, the traceback in
build/fuzz/TARGET/log.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.fuzz.registry import TARGETS
from tests.sandbox.host import run

_FOLDER: Final = Path("build/fuzz")
# Beyond its time a target has its seeds to read and one input to finish.
_GRACE_SECONDS: Final = 120
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED: Final = re.compile(r"\bcov: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """What fuzzing a target gave. findings: files that hold an input each."""

    target: str
    executions: int
    covered: int
    findings: tuple[Path, ...]
    status: int

    @property
    def good(self) -> bool:
        """Whether it ran its time without a finding."""
        return not self.findings and self.status == 0


@contextmanager
def _process(name: str, folder: Path, seconds: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), str(seconds)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def fuzz(name: str, seconds: int) -> Outcome:
    """Fuzz one target in a process of its own."""
    folder = _FOLDER / name
    shutil.rmtree(folder / "findings", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _process(name, folder, seconds) as process:
        try:
            status = process.wait(seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = -1
    log = (folder / "log").read_text(errors="replace")
    executed, covered = _EXECUTED.findall(log), _COVERED.findall(log)
    return Outcome(
        name,
        int(executed[-1]) if executed else 0,
        int(covered[-1]) if covered else 0,
        tuple(sorted((folder / "findings").glob("*"))),
        status,
    )


def main(arguments: list[str]) -> int:
    """Fuzz what is named, or everything."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}")
    seconds = max(1, round(options.minutes * 60))
    names = options.targets or list(TARGETS)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, run.whole():  # the processes end first
            outcomes = list(pool.map(lambda name: fuzz(name, seconds), names))
    except KeyboardInterrupt:
        return 130
    table = Table("target", "executions", "branches seen", "findings", box=None)
    for one in outcomes:
        ended = "" if one.good or one.findings else f"ended with {one.status}: see its log"
        found = "\n".join(map(str, one.findings)) or ended or "0"
        table.add_row(one.target, f"{one.executions:,}", f"{one.covered:,}", found)
    Console().print(table)
    return 0 if all(one.good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
