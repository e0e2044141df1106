"""The newcomer's sandbox: one command up, progress while it syncs, what to try next, one down."""

import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from docker.errors import DockerException
from rich.console import Console
from rich.filesize import decimal
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from sync.contract.layout import JOBS, STATUS_FILE, Job, job_state_dir
from sync.contract.status import StatusRecord
from tests.sandbox.host import dockerd, images, world
from tests.sandbox.host.dockerd import PROJECT, SANDBOX
from tests.sandbox.pulumi import cli
from tests.sandbox.pulumi.workspace import PulumiError, Workspace

STACK = "sandbox"
DOMAIN = world.ZONE
ROOT = Path("/srv/gridhub-sandbox")
HTTP_PORT = 8080
HTTPS_PORT = 8443
# The committed stack file names this socket; it leads to whichever engine is in use.
SOCKET = Path("/run/gridhub-sandbox/docker.sock")
# The passphrase guards throw-away secrets of a throw-away stack; a real stack has its own.
_PASSPHRASE = "sandbox"
_SYNC_SECONDS = 180
_IN_SYNC = ("idle", "following")


def project(engine: dockerd.DockerEngine) -> Workspace:
    """Return the project itself as the workspace, with the state below `.sandbox/`."""
    return Workspace(
        project=PROJECT,
        backend=SANDBOX / "pulumi",
        passphrase=_PASSPHRASE,
        environment={"DOCKER_HOST": engine.url, **_dns_variables()},
    )


def _dns_variables() -> dict[str, str]:
    token = world.DNS_TOKEN.read_text().strip() if world.DNS_TOKEN.exists() else ""
    return {
        "CLOUDFLARE_API_TOKEN": token,
        "CLOUDFLARE_BASE_URL": f"http://127.0.0.1:{world.PORTS.dns_api}/client/v4/",
    }


def up(console: Console) -> None:
    """Bring the whole sandbox up; a second call on top of it changes nothing."""
    clock = Clock()
    with cli.getting_ready() as program:
        engine = dockerd.ensure(console)
        owner = "private" if engine.private else "the machine's"
        console.print(f"Docker Engine {engine.version} ({owner}) at {engine.url}")
        _link_socket(engine)
        clock.lap("packages and Docker Engine")
        made = images.ensure(engine.url, console)
        kinds = ", ".join(f"{image.service}: {image.kind}" for image in made)
        console.print(f"Service images: {kinds}")
        clock.lap("images")
        used = program()
        clock.lap("Pulumi CLI, beside those")
    world.start(engine.url)
    place = project(engine)
    _write_environment(place)
    version = place.run("version").strip()
    console.print(f"Running [bold]pulumi up[/] with {used} ({version})", soft_wrap=True)
    _select(place)
    for line in place.lines("up", "--yes", "--skip-preview", "--refresh", "--stack", STACK):
        console.print(f"  {line}", markup=False, highlight=False)
    records = follow(console)
    clock.lap("the stack and its first sync")
    _summary(console, records)
    console.print(f"Up in {clock}")


class Clock:
    """What the parts of a run took."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._laps: list[str] = []

    def lap(self, part: str) -> None:
        """End a part that began where the one before it ended."""
        now = time.monotonic()
        self._laps.append(f"{part} {now - self._last:.0f} s")
        self._last = now

    def __str__(self) -> str:
        return f"{self._last - self._started:.0f} s: {', '.join(self._laps)}."


def _link_socket(engine: dockerd.DockerEngine) -> None:
    scheme, _, path = engine.url.partition("://")
    if scheme != "unix":
        raise RuntimeError(f"the sandbox needs an engine on a unix socket, not {engine.url}")
    SOCKET.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    SOCKET.symlink_to(path)


def _select(place: Workspace) -> None:
    known = place.run("stack", "ls", "--json")
    if f'"{STACK}"' in known:
        place.run("stack", "select", STACK)
    else:
        place.run("stack", "init", STACK)


def _write_environment(place: Workspace) -> None:
    lines = ["# source this file, then use `pulumi` in the project's folder"]
    lines += [f"export {name}='{value}'" for name, value in sorted(place.variables().items())]
    target = SANDBOX / "env"
    target.touch(mode=0o600)
    target.write_text("\n".join(lines) + "\n")


def _records() -> dict[Job, StatusRecord]:
    found: dict[Job, StatusRecord] = {}
    for job in JOBS:
        path = ROOT / job_state_dir(job) / STATUS_FILE
        if path.exists():
            found[job] = StatusRecord.model_validate_json(path.read_bytes())
    return found


def follow(console: Console) -> dict[Job, StatusRecord]:
    """Show the three jobs' progress until all are in sync; raises TimeoutError or RuntimeError."""
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    deadline = time.monotonic() + _SYNC_SECONDS
    with Progress(*columns, console=console) as progress:
        bars = {job: progress.add_task(job, total=None, phase="starting") for job in JOBS}
        while time.monotonic() < deadline:
            records = _records()
            _draw(progress, bars, records)
            failed = [r for r in records.values() if r.phase == "failed"]
            if failed:
                raise RuntimeError(f"{failed[0].job}: {failed[0].reason}")
            if len(records) == len(JOBS) and all(_in_sync(r) for r in records.values()):
                return records
            time.sleep(0.2)
    raise TimeoutError(f"not in sync within {_SYNC_SECONDS} s; see `make sandbox-status`")


def _in_sync(record: StatusRecord) -> bool:
    return record.phase in _IN_SYNC and record.first_pass_at is not None


def _draw(progress: Progress, bars: dict[Job, TaskID], records: dict[Job, StatusRecord]) -> None:
    for job, record in records.items():
        progress.update(
            bars[job],
            completed=record.done.items or 0,
            total=record.total.items,
            phase=record.phase if not record.reason else f"{record.phase}: {record.reason}",
        )


def _summary(console: Console, records: dict[Job, StatusRecord]) -> None:
    table = Table(title="The mirror", show_lines=False)
    for title in ("job", "phase", "done", "bytes", "broken", "refused"):
        table.add_column(title)
    for job, record in records.items():
        counts = (str(record.broken.count), str(record.refused.count))
        size = decimal(record.done.bytes or 0)
        table.add_row(job, record.phase, str(record.done.items), size, *counts)
    console.print(table)
    console.print(Panel.fit("\n".join(_served()), title="What is served where"))
    console.print(Panel.fit("\n".join(_next()), title="Try next"))


def _served() -> Iterable[str]:
    return (
        f"hub        https://hub.{DOMAIN}:{HTTPS_PORT}        on 127.0.0.1 and ::1",
        f"bootstrap  https://bootstrap.{DOMAIN}:{HTTPS_PORT}  on 127.0.0.1 and ::1",
        "0-db       127.0.0.1:9900 and [::1]:9900 (read-only from outside)",
        f"master     http://{world.WAN.gateway}:{world.PORTS.master_hub} (stand-in)",
        f"data       {ROOT}",
    )


def _next() -> Iterable[str]:
    return (
        "make sandbox-boot    lives from the mirror as a node, over IPv4 and IPv6",
        "make sandbox-change  gives the master a new flist and watches it arrive",
        "make sandbox-down    removes all of it",
        "",
        "Its stack, with pulumi by hand: nothing to change, and what moved since `up`",
        "  source .sandbox/env",
        f"  pulumi preview --refresh --diff --stack {STACK}",
    )


def status(console: Console) -> None:
    """Print where the sandbox stands: engine, processes, jobs."""
    engine = dockerd.find()
    console.print(f"Docker Engine: {engine.url if engine else 'none answers'}")
    for process in (world.master(), world.dns()):
        running = process.process()
        console.print(f"{process.name}: {f'pid {running.pid}' if running else 'not running'}")
    for job, record in _records().items():
        console.print(f"{job}: {record.phase} {record.reason}")
        for error in record.errors[-3:]:
            console.print(f"  {error.at:%H:%M:%S} {error.message}", markup=False)


def down(console: Console) -> None:
    """Remove everything that `up` made (packages of the machine stay) and nothing else."""
    engine = dockerd.find()
    if engine is None and (SANDBOX / "docker").exists():
        engine = dockerd.start_private()
    if engine is not None and (SANDBOX / "pulumi").exists():
        _destroy(console, engine)
    world.stop(engine.url if engine else None)
    if engine is not None and not engine.private:
        images.remove(engine.url)
    if dockerd.stop_private(remove_data=True):
        console.print("Private Docker Engine ended.")
    for directory in (ROOT, SANDBOX, SOCKET.parent):
        if directory.exists():
            shutil.rmtree(directory)
    console.print("The sandbox is gone.")


def _destroy(console: Console, engine: dockerd.DockerEngine) -> None:
    cli.ensure(console)
    place = project(engine)
    try:
        if f'"{STACK}"' not in place.run("stack", "ls", "--json"):
            return
        for line in place.lines("destroy", "--yes", "--skip-preview", "--stack", STACK):
            console.print(f"  {line}", markup=False, highlight=False)
        place.run("stack", "rm", "--yes", "--preserve-config", STACK)
    except (PulumiError, DockerException, subprocess.SubprocessError) as error:
        raise RuntimeError(
            f"the stack could not be destroyed, so nothing else was removed: {error}"
        ) from error
