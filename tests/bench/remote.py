"""A mirror on a remote host: what `up` and an empty `preview --refresh` cost over SSH.

The host is this machine behind an sshd on loopback; RTT 30 is a relay in front of it. The preview's
time is split: `jobs` is what reading and comparing the three sync resources takes, `providers` all
of ours, `plugins` docker's and Cloudflare's, `program` what the program takes beside them; each
counts a moment in which several calls run once. A part whose servers are not in Python, as the real
plugins and the real language host, can not be watched and is left out.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from sync.contract.layout import JOBS
from tests.bench import spans
from tests.e2e.stack import Ground, ground, mirror_stack, steps_of
from tests.sandbox.host import dockerd, packages, sshd
from tests.sandbox.upstream import Upstream, standard_world
from tests.sandbox.wan import Link, relay_process

BARS: Final = {"remote.rtt30.jobs_seconds": ("<=", 1.0)}
_RTTS: Final = (("rtt0", 0.0), ("rtt30", 0.03))
_JOBS: Final = ("sync-users-sync", "sync-kernels-sync", "sync-flists-sync")
# The docker plugin opens a connection per container, all at once.
_SSHD_OPTIONS: Final = ("MaxStartups 100", "MaxSessions 20")


@contextlib.contextmanager
def _engine() -> Iterator[None]:
    """Have a Docker Engine and sshd's program; an engine that was started for this is ended."""
    console = Console(stderr=True)
    before = dockerd.find()
    engine = dockerd.ensure(console)
    packages.ensure(sshd.PROGRAMS, console, services=False)
    try:
        yield
    finally:
        if before is None and engine.private:
            dockerd.stop_private(remove_data=False)


@contextlib.contextmanager
def _host(place: Ground, rtt_seconds: float) -> Iterator[dict[str, str]]:
    """Provide the setting `host` of a stack: this machine, so far away."""
    settings = sshd.SshdSettings(docker_host=place.engine.url, options=_SSHD_OPTIONS)
    with (
        tempfile.TemporaryDirectory(prefix="gridhub-bench-") as folder,
        sshd.running(Path(folder), settings) as server,
        relay_process(("127.0.0.1", server.port), Link(rtt_seconds)) as (address, port),
    ):
        pinned = server.known_hosts.read_text().replace(f":{server.port} ", f":{port} ")
        server.known_hosts.write_text(pinned)
        yield {
            "docker": f"ssh://root@{address}:{port}",
            "sshKeyPath": str(server.users["root"].private_key),
            "knownHostsPath": str(server.known_hosts),
        }


def split(written: list[spans.Span]) -> dict[str, float]:
    """Tell what of a run went where, in seconds."""
    running = [span for span in written if (span.package, span.method) == (spans.PROGRAM, "Run")]
    calls = [span for span in written if span.package != spans.PROGRAM]
    ours = [span for span in calls if span.package == spans.DYNAMIC]
    theirs = [span for span in calls if span.package != spans.DYNAMIC]
    looks = ("Check", "Diff", "Read")
    jobs = [span for span in ours if span.resource in _JOBS and span.method in looks]
    figures = {
        "jobs_seconds": spans.covered_seconds(jobs),
        "providers_seconds": spans.covered_seconds(ours),
    }
    if theirs:
        figures["plugins_seconds"] = spans.covered_seconds(theirs)
    if theirs and running:
        beside = spans.covered_seconds(running + calls) - spans.covered_seconds(calls)
        figures["program_seconds"] = beside
    return figures


def _measure(place: Ground, rtt_seconds: float, rounds: int) -> dict[str, float]:
    upstream = Upstream(addresses=(place.wan.gateway,))
    standard_world(upstream.model)
    with (
        upstream,
        tempfile.TemporaryDirectory(prefix="gridhub-bench-") as folder,
        _host(place, rtt_seconds) as host,
        mirror_stack(place, upstream, Path(folder), host=host, ready="started") as stack,
    ):
        started = time.monotonic()
        stack.up()
        figures = {"up_seconds": time.monotonic() - started}
        for job in JOBS:
            stack.wait_for(job, "first pass")
        file = Path(folder) / "spans"
        stack.add_environment(spans.environment(file))
        previews = []
        for _ in range(rounds):
            file.unlink(missing_ok=True)
            started = time.monotonic()
            planned = steps_of(stack, "--refresh")
            seconds = time.monotonic() - started
            if planned:
                raise RuntimeError(f"the preview is not empty: {planned}")
            previews.append({"refresh_seconds": seconds, **split(spans.read(file))})
        best = min(previews, key=lambda figures: figures["refresh_seconds"])
        return figures | best


def measure(*, small: bool) -> dict[str, float]:
    """Return every figure of the remote host by its name. Raises MissingPackageError."""
    figures: dict[str, float] = {}
    with _engine(), ground() as place:
        for label, rtt_seconds in _RTTS[:1] if small else _RTTS:
            measured = _measure(place, rtt_seconds, 1 if small else 3)
            figures |= {f"remote.{label}.{name}": value for name, value in measured.items()}
    return figures
