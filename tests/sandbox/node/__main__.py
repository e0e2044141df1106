"""`python -m tests.sandbox.node DOMAIN ADDRESS…`: visit a mirror as a node does, for a person."""

import argparse
import ipaddress
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.sandbox.node import RUN_MODES, Mirror, Node


def main(argv: Sequence[str]) -> int:
    """Visit over each family that there is an address of; status 1 when anything failed."""
    options = _parser().parse_args(argv)
    mirror = Mirror.of_domain(
        options.domain,
        options.addresses,
        https=options.https,
        http=options.http,
        zdb=options.zdb,
        ca_file=options.ca,
    )
    well = True
    for family in sorted({ipaddress.ip_address(address).version for address in options.addresses}):
        with Node(mirror, family, _sources(options.sources)) as node:
            report = node.visit(options.mode or RUN_MODES)
        for phase in report.phases:
            print(f"{'well' if phase.ok else 'FAILED':8}{phase.title}: {phase.summary()}")
            for failure in phase.failures:
                print(f"        {failure}")
        well = well and report.ok
    return 0 if well else 1


def _sources(given: Path | None) -> dict[str, Path]:
    """Read the `sources` of the master's description (`upstream show`)."""
    if given is None:
        return {}
    found = json.loads(given.read_text())
    return {name: Path(path) for name, path in found.get("sources", found).items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="node", description=__doc__)
    parser.add_argument("domain", help="the mirror's: its hub is hub.DOMAIN")
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="where its names lead")
    for name, port in (("https", 443), ("http", 80), ("zdb", 9900)):
        parser.add_argument(f"--{name}", type=int, default=port, help="port (%(default)s)")
    parser.add_argument("--ca", type=Path, help="file with the certificate authority")
    parser.add_argument("--mode", action="append", choices=RUN_MODES, help="may be repeated")
    parser.add_argument("--sources", type=Path, help="JSON: flist path to the directory to compare")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
