"""Pin a stack's images by digest: `python -m cli.pin_images stacks/Pulumi.X.yaml`.

Every image of the stack file's `images` is asked for at its registry by its tag, and the digest
found now is written beside it; comments and all other lines stay as they are. Images of
localhost/ are built on the host and stay. A stack file without `images` gets upstream's.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import requests

from cli.registry import ImageName, RegistryError, digest_of

UPSTREAM: Final[Mapping[str, str]] = {
    "zdb": "ghcr.io/threefoldtech/0-db:development-v2",
    "hub": "ghcr.io/threefoldtech/zos_flist_hub:master",
    "bootstrap": "ghcr.io/threefoldtech/zos_bootstrap:development-v3",
    "caddy": "docker.io/library/caddy:2.8.4",
    "python": "docker.io/library/python:3.11-slim",
}
_PROJECT: Final = "gridhub"
_BLOCK: Final = re.compile(r"^(\s+)(?:[\w-]+:)?images:\s*(#.*)?$")
_CONFIG: Final = re.compile(r"^config:\s*(\{\s*\})?\s*(#.*)?$")
_ENTRY: Final = re.compile(r"^(\s+)([a-z]+):\s*([\"']?)([^\s\"'#]+)\3(\s*#.*)?$")


class StackFileError(Exception):
    """The stack file can not be edited; `str()` says where and what to do."""


def pinned(text: str, pin: Callable[[str], str]) -> str:
    """Return the stack file's text with every image passed through `pin`.

    pin: from an image reference as written to the pinned one.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _BLOCK.match(line)), None)
    if start is None:
        lines, start = _with_upstream(lines)
    depth = len(lines[start]) - len(lines[start].lstrip())
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) - len(line.lstrip()) <= depth:
            break
        lines[number] = _pinned_line(line, number, pin)
    return "\n".join(lines) + "\n"


def _with_upstream(lines: list[str]) -> tuple[list[str], int]:
    """Add upstream's images as the first setting; returns the lines and the block's index."""
    config = next((i for i, line in enumerate(lines) if _CONFIG.match(line)), None)
    if config is None:
        lines, config = [*lines, "config:"], len(lines)
    block = [f"  {_PROJECT}:images:", *(f"    {name}: {ref}" for name, ref in UPSTREAM.items())]
    return [*lines[:config], "config:", *block, *lines[config + 1 :]], config + 1


def _pinned_line(line: str, number: int, pin: Callable[[str], str]) -> str:
    match = _ENTRY.match(line)
    if match is None:
        raise StackFileError(f"line {number + 1}: {line.strip()!r} is not `service: image`")
    indent, service, _quote, reference, comment = match.groups()
    return f"{indent}{service}: {pin(reference)}{comment or ''}"


def pin_reference(reference: str, session: requests.Session) -> str:
    """Return NAME:TAG@sha256:… of what the tag names now; localhost/ images unchanged."""
    if reference.startswith("localhost/"):
        return reference
    written, at, _digest = reference.partition("@")
    image = ImageName.parse(written)
    if at and ":" not in written.rpartition("/")[2]:
        raise StackFileError(f"{reference} names no tag to ask for; write NAME:TAG@sha256:…")
    return f"{image}@{digest_of(image, session)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the file is replaced only when every image could be pinned."""
    parser = argparse.ArgumentParser(prog="python -m cli.pin_images")
    parser.add_argument("stack_file", type=Path)
    path = parser.parse_args(arguments).stack_file
    session = requests.Session()

    def pin(reference: str) -> str:
        found = pin_reference(reference, session)
        print(f"{reference} is {found}" if found != reference else f"{reference} stays")
        return found

    try:
        text = pinned(path.read_text(encoding="utf-8"), pin)
    except (OSError, StackFileError, RegistryError) as error:
        print(f"error: {path}: {error}; nothing was written", file=sys.stderr)
        return 1
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
