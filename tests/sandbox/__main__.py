"""`python -m tests.sandbox up|boot|change|status|down`: the newcomer's sandbox."""

import argparse
import sys

from rich.console import Console

from tests.sandbox.host import newcomer, visits
from tests.sandbox.host.packages import MissingPackageError
from tests.sandbox.node import NodeError

_COMMANDS = {
    "up": newcomer.up,
    "boot": visits.boot,
    "change": visits.change,
    "status": newcomer.status,
    "down": newcomer.down,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 1 and one readable message when it fails."""
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS))
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        _COMMANDS[chosen.command](console)
    except (NodeError, MissingPackageError, RuntimeError, TimeoutError, ValueError) as error:
        console.print(f"[red]sandbox {chosen.command} failed:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
