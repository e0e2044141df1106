"""The command line of the comparison: run, record, handover, list."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from tests.sandbox.compare.case import Case
from tests.sandbox.compare.cases import BY_NAME, CASES
from tests.sandbox.compare.differences import differences
from tests.sandbox.compare.handover import hand_over_all
from tests.sandbox.compare.harness import OwnEngine, RealEngine, Result, real_pulumi, run_case

RECORDED = Path(__file__).with_name("recorded")
_WORKERS = max(2, os.cpu_count() or 2)


def own_results(name: str) -> list[Result]:
    """Run a case under the sandbox's engine."""
    return run_case(OwnEngine(), BY_NAME[name])


def real_results(name: str, executable: str) -> list[Result]:
    """Run a case under the real engine."""
    return run_case(RealEngine(executable), BY_NAME[name])


def load_recorded(name: str) -> dict[str, Any]:
    """Read what the real engine did: {"version": …, "runs": […]}."""
    text = (RECORDED / f"{name}.json").read_text(encoding="utf-8")
    recorded: dict[str, Any] = json.loads(text)
    return recorded


def write_recorded(name: str, version: str, runs: list[Result]) -> None:
    """Write what the real engine did, a line each command."""
    lines = ",\n".join(json.dumps(run, sort_keys=True, ensure_ascii=False) for run in runs)
    head = json.dumps({"case": name, "version": version})[:-1]
    text = f'{head}, "runs": [\n{lines}\n]}}\n'
    (RECORDED / f"{name}.json").write_text(text, encoding="utf-8")


def pool() -> futures.ProcessPoolExecutor:
    """Make workers; each runs one case at a time in its own process."""
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(_WORKERS, mp_context=context)


def _record(cases: Sequence[Case], executable: str) -> int:
    version = RealEngine(executable).version()
    RECORDED.mkdir(exist_ok=True)
    with pool() as workers:
        pending = {workers.submit(real_results, c.name, executable): c.name for c in cases}
        for future in futures.as_completed(pending):
            name = pending[future]
            write_recorded(name, version, future.result())
            print(f"recorded {name}", flush=True)
    return 0


def _run(cases: Sequence[Case], executable: str | None) -> int:
    found = 0
    runs = 0
    with pool() as workers:
        own = {c.name: workers.submit(own_results, c.name) for c in cases}
        real = {
            c.name: workers.submit(real_results, c.name, executable) for c in cases if executable
        }
        for case in cases:
            expected = real[case.name].result() if real else load_recorded(case.name)["runs"]
            lines = differences(expected, own[case.name].result())
            runs += len(expected)
            found += bool(lines)
            print(f"{'DIFFERS' if lines else 'same   '} {case.name} ({len(expected)} commands)")
            for line in lines:
                print(f"    {line}")
            sys.stdout.flush()
    against = RealEngine(executable).version() if executable else _recorded_version(cases)
    print(
        f"{len(cases)} cases, {runs} commands, {found} with differences; "
        f"held to the real engine {against} ({'at hand' if executable else 'recorded'})"
    )
    return 1 if found else 0


def _hand_over(executable: str) -> int:
    real = RealEngine(executable)
    done = hand_over_all(OwnEngine(), real)
    for one in done:
        print(f"{'FAILS' if one.failures else 'good '} {one.program}: {one.direction}")
        for failure in one.failures:
            print(f"    {failure}")
    failed = sum(bool(one.failures) for one in done)
    print(f"{len(done)} handovers, {failed} failed; with the real engine {real.version()}")
    return 1 if failed else 0


def _recorded_version(cases: Sequence[Case]) -> str:
    return ", ".join(sorted({load_recorded(case.name)["version"] for case in cases}))


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.compare")
    parser.add_argument("what", choices=("run", "record", "handover", "list"))
    parser.add_argument("cases", nargs="*", help="names of cases; none: all")
    parser.add_argument("--recorded", action="store_true", help="do not use a real pulumi")
    options = parser.parse_intermixed_args(arguments)
    cases = [BY_NAME[name] for name in options.cases] or list(CASES)
    if options.what == "list":
        print("\n".join(case.name for case in cases))
        return 0
    executable = None if options.recorded else real_pulumi()
    if options.what == "record":
        if executable is None:
            parser.error("record needs a real `pulumi` on PATH")
        return _record(cases, executable)
    if options.what == "handover":
        if executable is None:
            parser.error("handover needs a real `pulumi` on PATH")
        return _hand_over(executable)
    return _run(cases, executable)
