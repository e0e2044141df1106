"""`python -m tests.sandbox.upstream serve|edit|show`: the master stand-in as a process."""

import argparse
import json
import sys
from typing import Any

import requests

from tests.sandbox.flist import Backend
from tests.sandbox.services import ending
from tests.sandbox.services.http import HttpServer
from tests.sandbox.upstream.control import EDITS, Control
from tests.sandbox.upstream.model import UpstreamModel
from tests.sandbox.upstream.servers import Upstream
from tests.sandbox.upstream.world import standard_world

_TIMEOUT_SECONDS = 60


def main(argv: list[str]) -> int:
    """Run one of the commands."""
    options = _parser().parse_args(argv)
    run = {"serve": _serve, "edit": _edit, "show": _show}[options.command]
    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upstream", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _serve_options(commands.add_parser("serve", help="serve a master until SIGTERM"))
    edit = commands.add_parser("edit", help="change a running master")
    edits = edit.add_subparsers(dest="edit", required=True)
    for name, described in EDITS.items():
        one = edits.add_parser(name, help=described.does)
        _control_option(one)
        for parameter, meaning in described.parameters.items():
            flag = f"--{parameter.rstrip('?').replace('_', '-')}"
            one.add_argument(flag, required=not parameter.endswith("?"), help=meaning)
    _control_option(commands.add_parser("show", help="describe a running master"))
    return parser


def _control_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control", default="http://127.0.0.1:18090", help="control URL")


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", action="append", help="may be repeated (default 127.0.0.1)")
    parser.add_argument("--hub-port", type=int, default=0)
    parser.add_argument("--bootstrap-port", type=int, default=0)
    parser.add_argument("--zdb-port", type=int, default=0)
    parser.add_argument("--control-address", default="127.0.0.1")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--backend-host", default="hub.grid.tf", help="0-db that flists name")
    parser.add_argument("--backend-port", type=int, default=9900)
    parser.add_argument("--empty", action="store_true", help="start without the standard world")


def _serve(options: argparse.Namespace) -> int:
    model = UpstreamModel(Backend(options.backend_host, options.backend_port))
    if not options.empty:
        world = standard_world(model)
        print(
            f"{world.flists} flists, {world.chunks} chunks ({world.chunk_bytes >> 10} KiB), "
            f"{world.kernels} kernels ({world.kernel_bytes >> 10} KiB)"
        )
    upstream = Upstream(
        model,
        options.address or ["127.0.0.1"],
        hub_port=options.hub_port,
        bootstrap_port=options.bootstrap_port,
        zdb_port=options.zdb_port,
    )
    control = HttpServer(Control(upstream), options.control_address, options.control_port)
    ending.block()
    with upstream:
        control.start()
        print(f"hub        {upstream.hub.url}")
        print(f"bootstrap  {upstream.bootstrap.url}")
        print(f"0-db       {upstream.zdb.address} port {upstream.zdb.port}")
        print(f"control    {control.url}", flush=True)
        ending.wait()
        control.stop()
    return 0


def _edit(options: argparse.Namespace) -> int:
    names = [name.rstrip("?") for name in EDITS[options.edit].parameters]
    fields = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    answer = _asked(options.control, options.edit, fields)
    print(answer.get("done") or f"refused: {answer.get('error')}")
    return 0 if "done" in answer else 1


def _show(options: argparse.Namespace) -> int:
    answer = requests.get(options.control, timeout=_TIMEOUT_SECONDS).json()
    print(json.dumps(answer, indent=2))
    return 0


def _asked(control: str, edit: str, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        url = f"{control.rstrip('/')}/{edit}"
        answer = requests.post(url, json=fields, timeout=_TIMEOUT_SECONDS)
        found: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError) as error:
        return {"error": f"no master's control at {control}: {error}"}
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
