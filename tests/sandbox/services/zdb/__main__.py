"""`python3 -m tests.sandbox.services.zdb`: the stand-in with zdbd's command line."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tests.sandbox.services.zdb.namespace import DEFAULT_DATASIZE_BYTES
from tests.sandbox.services.zdb.server import ZdbServer
from tests.sandbox.services.zdb.store import Settings, Store

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"[-] {message}", file=sys.stderr)
        sys.exit(1)


def size_bytes(text: str) -> int:
    """Parse a size as zdbd takes it: bytes, or with K, M or G; 512 KiB up to below 4 GiB."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 512 << 10 <= size < 0xFFFFFFFF:
        raise argparse.ArgumentTypeError("datasize invalid")
    return size


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse zdbd's flags; the ones this stand-in does not know end it with status 1."""
    parser = _Parser(prog="zdb", description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, help="data files (without both: in memory only)")
    parser.add_argument("--index", type=Path, help="index files")
    parser.add_argument("--listen", default="::")
    parser.add_argument("--port", type=int, default=9900)
    parser.add_argument("--mode", choices=("user",), default="user")
    parser.add_argument("--admin")
    parser.add_argument("--protect", action="store_true")
    parser.add_argument("--datasize", type=size_bytes, default=DEFAULT_DATASIZE_BYTES)
    parser.add_argument("--maxsize", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--sync", action="store_true", help="accepted; nothing is fsynced")
    parser.add_argument("--version", action="version", version="0-db server, stand-in of v2.0.7")
    return parser.parse_args(_as_getopt_reads(argv, parser))


def _as_getopt_reads(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Bind each option's value to it: getopt takes the next word even if it begins with a dash.

    One in 64 of the passwords that the program makes does, and argparse refuses it.
    """
    valued = {f"--{action.dest}" for action in parser._actions if action.nargs is None}
    words = iter(argv)
    bound = []
    for word in words:
        value = next(words, None) if word in valued else None
        bound.append(word if value is None else f"{word}={value}")
    return bound


def opened(argv: list[str]) -> ZdbServer:
    """Open the server that these flags describe; ValueError or OSError where zdbd would end."""
    options = arguments(argv)
    settings = Settings(
        admin=options.admin,
        protect=options.protect,
        data=options.data,
        index=options.index,
        datasize_bytes=options.datasize,
        maxsize_bytes=options.maxsize,
    )
    return ZdbServer(Store(settings), options.listen, options.port)


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        server = opened(argv)
    except (ValueError, OSError) as error:
        print(f"[-] system: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.end())
    print(f"[+] listening on port {server.port} (pid {os.getpid()})", flush=True)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
