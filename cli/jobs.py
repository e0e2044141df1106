"""`gridhub verify` and `gridhub repair`: the agent's own, run in the job's container."""

import click

from cli.stack import LINE_BYTES, StackOnHost
from sync.contract.layout import Job
from sync.contract.names import shown
from sync.providers.host.commands import until_stdin_ends


def check(command: str, stack: str, job: Job, part: str | None, **flags: bool) -> int:
    """Run the agent's `command` (verify or repair) in the job's container; 0 when all is well.

    part: N/M. flags: the agent's options without a value. What it prints is printed as it comes.
    It ends with this process, whichever way that ends: Docker alone would let it run on there.
    """
    options = [f"--{name}" for name, given in flags.items() if given]
    options += ["--part", part] if part else []
    mirror = StackOnHost.of(stack)
    agent = until_stdin_ends("python3", "-m", "sync.agent", command, job, *options)
    container = mirror.containers(job)[job]
    argv = mirror.host.docker("exec", "--interactive", container, *agent)
    with mirror.host.start(argv) as running:
        while line := running.readline(LINE_BYTES):
            # The container is the job's: a terminal obeys escape sequences.
            text = shown(line.decode(errors="replace").rstrip("\r\n").expandtabs())
            click.echo(text, nl=line.endswith(b"\n"))
        return int(running.status() != 0)
