"""`python -m tests.bench`: measure everything in one run, print a table, write results.json.

Bars hold for the whole form only; `--small` takes seconds and checks that everything still runs.
"""

import argparse
import importlib
import json
import os
import sys
import time
from math import nan
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.servers import server_name
from tests.sandbox.host import run

CASES: Final = ("flists", "users", "kernels", "bootable", "remote")
RESULTS: Final = Path("build/bench/results.json")
_UNITS: Final = (
    ("items_per_second", "1/s"),
    ("sequential_per_second", "1/s"),
    ("mb_per_second", "MB/s"),
    ("_seconds", "s"),
    (".seconds", "s"),
    ("_ms", "ms"),
    ("_mib", "MiB"),
    ("_mb", "MB"),
    ("_requests", "requests"),
)


def unit(name: str) -> str:
    """Return a figure's unit, which its name tells; a ratio has none."""
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "ratio")


def meets(value: float, bar: tuple[str, Any]) -> bool:
    """Tell whether a figure keeps its bar: (">=", x), ("<=", x) or ("within", (low, high))."""
    kind, limit = bar
    if kind == ">=":
        return bool(value >= limit)
    if kind == "<=":
        return bool(value <= limit)
    low, high = limit
    return bool(low <= value <= high)


def shown_bar(bar: tuple[str, Any] | None) -> str:
    """Write a bar for the table."""
    if bar is None:
        return ""
    kind, limit = bar
    return f"{limit[0]:g} to {limit[1]:g}" if kind == "within" else f"{kind} {limit:g}"


def cases(only: list[str]) -> list[ModuleType]:
    """Import the measuring modules: each has measure(*, small) and may have BARS."""
    folder = Path(__file__).parent
    there = [name for name in CASES if (folder / f"{name}.py").is_file()]
    unknown = [name for name in only if name not in there]
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}; there are {', '.join(there)}")
    return [
        importlib.import_module(f"tests.bench.{name}") for name in there if name in only or not only
    ]


def table(figures: dict[str, float], bars: dict[str, tuple[str, Any]]) -> Table:
    """Make the table of all figures, bars beside them."""
    made = Table("figure", "value", "unit", "bar", "")
    for column in (1, 3):
        made.columns[column].justify = "right"
    for name, value in sorted(figures.items()):
        bar = bars.get(name)
        verdict = "" if bar is None else "ok" if meets(value, bar) else "[red]missed[/red]"
        made.add_row(name, f"{value:,.3f}", unit(name), shown_bar(bar), verdict)
    return made


def main(arguments: list[str]) -> int:
    """Run the bench; returns 1 where a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds, without bars")
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args(arguments)
    try:
        with run.whole():
            return _measured(options)
    except KeyboardInterrupt:
        return 130


def _measured(options: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(f"0-db server: {server_name()}; {os.cpu_count()} cores")
    figures: dict[str, float] = {}
    bars: dict[str, tuple[str, Any]] = {}
    for case in cases(options.only):
        started = time.monotonic()
        figures |= case.measure(small=options.small)
        bars |= {} if options.small else getattr(case, "BARS", {})
        console.print(f"{case.__name__}: measured in {time.monotonic() - started:.0f} s")
    console.print(table(figures, bars))
    results = [
        {"name": name, "value": value, "unit": unit(name)}
        for name, value in sorted(figures.items())
    ]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    missed = [name for name, bar in bars.items() if not meets(figures.get(name, nan), bar)]
    for name in sorted(missed):
        value = figures.get(name, nan)
        console.print(f"missed: {name} = {value:.3f}, bar {shown_bar(bars[name])}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
