"""The agent's command line: run, verify, repair."""

import argparse
import importlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

from sync.agent import logs
from sync.agent.first_to_die import die_first
from sync.agent.job import ENGINES, Directories, JobFailed, VerifyOptions
from sync.agent.master.client import HttpError, HttpStoppedError
from sync.agent.supervisor import load_spec, run_job
from sync.agent.zdb.errors import ZdbError
from sync.contract import layout
from sync.contract.names import bounded

_MOST_LINES: Final = 100


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    numbers = (int(part), int(parts))
    if not 1 <= numbers[0] <= numbers[1]:
        raise argparse.ArgumentTypeError(f"{text}: give N/M with 1 <= N <= M, such as 2/7")
    return numbers


def parser() -> argparse.ArgumentParser:
    """Return the parser of the agent's command line."""
    top = argparse.ArgumentParser(prog="python3 -m sync.agent", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for command, text in (
        ("run", "run a job until SIGTERM"),
        ("verify", "compare the mirror with its state and the master; changes nothing"),
        ("repair", "verify, and repair just what is wrong"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("job", choices=layout.JOBS)
        for field in fields(Directories):
            option = f"--{field.name.replace('_', '-')}-dir"
            sub.add_argument(option, type=Path, default=field.default, metavar="DIR")
        if command != "run":
            sub.add_argument("--part", type=_part, default=(1, 1), metavar="N/M")
            sub.add_argument("--chunks", action="store_true", help="read every chunk")
            sub.add_argument("--offline", action="store_true", help="ask the master nothing")
    return top


def _verify(options: argparse.Namespace, directories: Directories) -> int:
    spec = load_spec(directories.spec, options.job)
    if spec is None:
        raise JobFailed(f"{directories.spec}: holds no spec.json; run `pulumi up` first")
    engine = importlib.import_module(ENGINES[options.job])
    part, parts = options.part
    asked = VerifyOptions(part, parts, chunks=options.chunks, offline=options.offline)
    report = getattr(engine, options.command)(spec, directories, asked)
    for problem in report.problems:
        print(bounded(f"{problem.name}: {problem.what}"))
    if report.unnamed:
        print(f"and {report.unnamed} more")
    wrong = len(report.problems) + report.unnamed
    print(f"{options.job}: {report.checked} checked, {wrong} wrong, {report.repaired} repaired")
    return 1 if wrong > report.repaired else 0


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, or 1 where something is wrong."""
    options = parser().parse_args(arguments)
    names = [field.name for field in fields(Directories)]
    directories = Directories(**{name: getattr(options, f"{name}_dir") for name in names})
    if options.command == "run":
        logs.start()
        run_job(options.job, directories)
        return 0
    # It shares the memory of the job's container, and the job is worth more.
    die_first()
    try:
        return _verify(options, directories)
    except (JobFailed, HttpError, HttpStoppedError, ZdbError, OSError) as error:
        # What a master said may be in it.
        for line in str(error).splitlines()[:_MOST_LINES]:
            print(bounded(line), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
