"""`gridhub logs`: the services' logs side by side, in panes of tmux, or merged line by line.

Upstream's open_logs_tmux.sh (grid_deployment: grid-hub) does the same on the host itself.
"""

import contextlib
import itertools
import os
import queue
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from cli.stack import LINE_BYTES, StackOnHost
from sync.contract.names import shown
from sync.providers.host.commands import Running, until_stdin_ends

_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")
_LINES_IN_MEMORY: Final = 64
_COMMAND: Final = Path(__file__).with_name("gridhub")


def merge(mirror: StackOnHost, containers: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Print all logs as their lines come, each with its service's name, until they end.

    containers: by service. arguments: of `docker logs`. Threads read, through a short queue: while
    nobody takes what is printed, the host keeps the rest. HostError when the connection broke.
    """
    lines: queue.Queue[tuple[str, bytes]] = queue.Queue(_LINES_IN_MEMORY)
    prefixes = _prefixes(list(containers))
    with contextlib.ExitStack() as started:
        followed: dict[str, Running] = {}
        for service, name in containers.items():
            log = until_stdin_ends(*mirror.host.docker("logs", *arguments, name))
            followed[service] = running = started.enter_context(mirror.host.start(log))
            threading.Thread(target=_read, args=(service, running, lines), daemon=True).start()
        while followed:
            service, line = lines.get()
            if line:
                # A log has names that the master chose; a terminal obeys escape sequences.
                text = shown(line.decode(errors="replace").rstrip("\r\n").expandtabs())
            else:
                status = followed.pop(service).status()
                text = f"(the log ended{f': docker exited with {status}' if status else ''})"
            click.echo(f"{prefixes[service]}{text}")


def _read(service: str, running: Running, lines: "queue.Queue[tuple[str, bytes]]") -> None:
    """Hand on every line, and an empty one at the end."""
    with contextlib.suppress(OSError):  # ended meanwhile
        while line := running.readline(LINE_BYTES):
            lines.put((service, line))
    lines.put((service, b""))


def _prefixes(services: list[str]) -> dict[str, str]:
    """Return what stands before a service's lines; nothing where it is the only one."""
    if len(services) == 1:
        return {services[0]: ""}
    width = max(map(len, services))
    colours = itertools.cycle(_COLOURS)
    return {name: click.style(f"{name:{width}} | ", next(colours)) for name in services}


def tmux_command(socket: str, stack: str, services: Iterable[str], tail: int) -> list[str]:
    """Return the tmux command that shows a pane per service and ends with Ctrl-C in any of them.

    It is a tmux server of its own, so that it has no settings but these, and that nothing of it
    outlives its terminal: the panes end with it, and what they started on the host with them.
    """
    commands: list[list[str]] = [
        ["start-server"],
        ["set", "-g", "remain-on-exit", "on"],
        ["set", "-g", "mouse", "on"],
        ["set", "-g", "pane-border-status", "top"],
        ["set", "-g", "pane-border-format", " #{pane_title} "],
        ["set", "-g", "status-right", "Ctrl-C ends all"],
        ["bind", "-n", "C-c", "kill-session"],
    ]
    for number, service in enumerate(services):
        follow = [str(_COMMAND), "logs", "--stack", stack, "--merged", "--tail", str(tail), service]
        opened = ["split-window"] if number else ["new-session", "-s", stack]
        commands += [[*opened, shlex.join(follow)], ["select-pane", "-T", service]]
        # Before the next one: there is no room to split the same pane again and again.
        commands += [["select-layout", "tiled"]] if number else []
    commands.append(["set", "-g", "destroy-unattached", "on"])
    words = [word for command in commands for word in (";", *command)]
    return ["tmux", "-S", socket, "-f", os.devnull, *words[1:]]


def in_panes(stack: str, services: Iterable[str], tail: int) -> int:
    """Show a pane per service until Ctrl-C; returns tmux's exit status."""
    environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
    with tempfile.TemporaryDirectory(prefix="gridhub-logs-") as folder:
        command = tmux_command(f"{folder}/tmux", stack, services, tail)
        return subprocess.run(command, env=environment, check=False).returncode
