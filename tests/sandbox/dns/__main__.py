"""`python -m tests.sandbox.dns serve`: the DNS sandbox as a process."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from tests.sandbox.dns.sandbox import LOOPBACK, DnsSandbox
from tests.sandbox.dns.zones import zone_id


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.dns", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve until SIGTERM; prints one line of JSON")
    serve.add_argument("--address", default=LOOPBACK)
    serve.add_argument("--api-port", type=int, default=0, help="0: any free port")
    serve.add_argument("--dns-port", type=int, default=0, help="0: any free UDP port")
    serve.add_argument("--token-file", type=Path, required=True, help="holds the API token")
    serve.add_argument("--state", type=Path, help="keeps zones and records over restarts")
    serve.add_argument("--zone", action="append", default=[], help="may be repeated")
    identity = commands.add_parser("zone-id", help="print the id that a zone has here")
    identity.add_argument("zone")
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    sandbox = DnsSandbox(
        arguments.zone,
        token=arguments.token_file.read_text(encoding="utf-8").strip(),
        address=arguments.address,
        api_port=arguments.api_port,
        dns_port=arguments.dns_port,
        state_file=arguments.state,
    )
    with sandbox:
        address, port = sandbox.dns_endpoint
        ready = {"apiUrl": sandbox.api_url, "dnsAddress": address, "dnsPort": port}
        zones = {name: identity for identity, name in sandbox.zones.zones().items()}
        print(json.dumps({**ready, "zones": zones}), flush=True)
        ended.wait()
    return 0


def main(arguments: list[str]) -> int:
    """Run one command."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == "zone-id":
        print(zone_id(parsed.zone))
        return 0
    return _serve(parsed)


sys.exit(main(sys.argv[1:]))
