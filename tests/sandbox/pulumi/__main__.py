"""`python -m tests.sandbox.pulumi`: have the Pulumi CLI, and tell where it is."""

import signal
import sys

from rich.console import Console

from tests.sandbox.pulumi import cli


def main() -> int:
    """Print the path of the CLI; told to end, it ends the build as well."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    console = Console(file=sys.stderr, soft_wrap=True)
    try:
        print(cli.ensure(console))
    except cli.CliError as error:
        console.print(str(error), markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
