#!/usr/bin/env python3
"""What the hub runs as `zflist` and as `tar`: without 0-db's password, and without rights.

0-hub (src/hub/flist.py) gives zflist 0-db's password as an argument, prints the command into its
log, and leaves the password in its workspace. An empty password is worse: a protected 0-db refuses
`SELECT default ""` where it accepts `SELECT default`, so the hub's start check never passes. Here
no password goes to zflist at all, which is enough to read.

A hub that accepts uploads unpacks and packs what strangers send. That needs rights (owners, device
nodes) and the right to write chunks, which the hub itself shall not have: with GRIDHUB_PACKER set,
the command runs in the packer's container (packer.py), with this process' output as its own.

0-hub asks for no exit status: a zflist that says nothing has succeeded, and so the uploader is
told. Only output that is no JSON makes it answer 500, so what goes wrong between the hub and its
tools is said on the standard output too.
"""

from __future__ import annotations

import json
import os
import socket
import sys

REAL = {"zflist": "/usr/bin/zflist", "tar": "/usr/bin/tar"}
PACKER = "GRIDHUB_PACKER"  # path of the packer's socket
BACKEND = "ZFLIST_BACKEND"  # JSON: host, port, namespace, password (0-flist: zflist/tools.c)
# What zflist reads of its environment (0-flist: zflist/zflist.c).
PASSED = (BACKEND, "ZFLIST_MNT", "ZFLIST_JSON", "ZFLIST_PROGRESS")
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h


def without_password(arguments: list[str]) -> list[str]:
    """Return zflist's arguments without `--password VALUE`."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word == "--password":
            next(words, None)
        else:
            kept.append(word)
    return kept


def without_secret(backend: str) -> str:
    """Return the JSON of a backend without its password; what is no JSON object as it is."""
    try:
        fields = json.loads(backend)
        fields.pop("password", None)
    except (ValueError, AttributeError, TypeError):
        return backend
    return json.dumps(fields)


def ask(path: str, tool: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Run the command in the packer's container; return its exit status. Raises OSError."""
    request = {"tool": tool, "arguments": arguments, "environment": environment}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"\n"], [sys.stdout.fileno(), sys.stderr.fileno()])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer = answers.readline(16)
    if not answer:
        raise ConnectionError("it went away")
    return int(answer)


def main(argv: list[str]) -> int:
    """Run the tool that this file is called as."""
    tool = os.path.basename(argv[0])  # noqa: PTH119 - no pathlib: this starts for each command
    arguments = without_password(argv[1:]) if tool == "zflist" else argv[1:]
    environment = dict(os.environ)
    if BACKEND in environment:
        environment[BACKEND] = without_secret(environment[BACKEND])
    if PACKER not in environment:
        os.execve(REAL[tool], [tool, *arguments], environment)  # noqa: S606 - no shell is meant
    passed = {name: environment[name] for name in PASSED if name in environment}
    try:
        return ask(environment[PACKER], tool, arguments, passed)
    except OSError as error:
        for stream in (sys.stdout, sys.stderr):
            print(f"the packer does not answer: {error}", file=stream)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
