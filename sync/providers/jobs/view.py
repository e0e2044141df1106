"""Where a host's jobs stand, seen by one cheap command for all of them.

Spec, status record and the containers' states are readable by anybody who may use Docker, so no
one-shot container is needed: a shell prints them, a line of JSON each.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from sync.contract import layout
from sync.contract import spec as contract
from sync.contract.layout import Job
from sync.contract.status import StatusRecord
from sync.providers.host.cache import KEPT_SECONDS, Once
from sync.providers.host.connection import Command, HostConnection, HostError
from sync.providers.host.host import Host, connect, docker_failure

_SECONDS: Final = 60
_NOT_PASSABLE: Final = 77
_INSPECT: Final = (
    '{"name":{{json .Name}},"running":{{.State.Running}},"status":{{json .State.Status}},'
    '"exitCode":{{.State.ExitCode}},"restarts":{{.RestartCount}},"oomKilled":'
    '{{.State.OOMKilled}},"health":{{if .State.Health}}{{json .State.Health.Status}}'
    "{{else}}null{{end}}}"
)
# $1: data root, $2: format of docker inspect, then the docker command. Prints the host's time, each
# job's files in base64 (one line, empty when absent) and the containers; ends with docker's status.
_SCRIPT: Final = f"""
root=$1; format=$2; shift 2
if ! why=$(LC_ALL=C ls -d "$root/." 2>&1); then
  case $why in *ermission*) exit {_NOT_PASSABLE};; esac
fi
date +%s
for job in {" ".join(layout.JOBS)}; do
  for file in spec/{layout.SPEC_FILE} state/{layout.STATUS_FILE}; do
    base64 < "$root/{layout.SYNC}/$job/$file" 2>/dev/null | tr -d '\\n'
    echo
  done
done
ids=$("$@" ps --all --quiet --no-trunc) || exit $?
[ -z "$ids" ] || "$@" inspect --type container --format "$format" $ids || true
"""


@dataclass(frozen=True)
class ContainerState:
    """A container as Docker sees it. health is None where it has no check."""

    name: str
    running: bool
    status: str
    exit_code: int
    restarts: int
    oom_killed: bool
    health: str | None


@dataclass(frozen=True)
class JobFiles:
    """spec and record as they stand on the host; None where a file is absent or unreadable."""

    spec: contract.UsersSpec | contract.KernelsSpec | contract.FlistsSpec | None
    spec_written: bool
    record: StatusRecord | None


@dataclass(frozen=True)
class JobsView:
    """The three jobs' files and all containers, at `now` (the host's clock)."""

    now: datetime
    files: Mapping[Job, JobFiles]
    containers: Mapping[str, ContainerState]


@dataclass(frozen=True)
class _Place:
    connection: HostConnection
    root: str


def _fetch(place: _Place) -> JobsView:
    host = _HOSTS[place.connection]
    argv = ["sh", "-c", _SCRIPT, "sh", place.root, _INSPECT, *host.docker()]
    completed = host.run(Command(argv, timeout_seconds=_SECONDS))
    if completed.status == _NOT_PASSABLE:
        raise HostError(
            f"{place.connection.docker_host}: this user may not enter {place.root}, so the jobs "
            "can not be seen; make it and the folders above it passable (chmod a+x)"
        )
    if completed.status != 0:
        raise docker_failure(place.connection.docker_host, completed)
    return parse(completed.stdout.decode(errors="replace"))


def parse(printed: str) -> JobsView:
    """Read what the script printed."""
    lines = iter(printed.splitlines())
    now = datetime.fromtimestamp(int(next(lines)), UTC)
    files = {job: _job_files(lines) for job in layout.JOBS}
    containers = [_container(json.loads(line)) for line in lines if line.strip()]
    return JobsView(now, files, {container.name: container for container in containers})


def _job_files(lines: Iterator[str]) -> JobFiles:
    spec = base64.b64decode(next(lines, ""))
    record = base64.b64decode(next(lines, ""))
    return JobFiles(_parse_spec(spec), bool(spec), _parse_record(record))


def _parse_spec(
    data: bytes,
) -> contract.UsersSpec | contract.KernelsSpec | contract.FlistsSpec | None:
    try:
        return contract.parse(data) if data else None
    except ValidationError:
        return None


def _parse_record(data: bytes) -> StatusRecord | None:
    try:
        return StatusRecord.model_validate_json(data) if data else None
    except ValidationError:
        return None


def _container(state: Mapping[str, Any]) -> ContainerState:
    return ContainerState(
        name=str(state["name"]).removeprefix("/"),
        running=bool(state["running"]),
        status=str(state["status"]),
        exit_code=int(state["exitCode"]),
        restarts=int(state["restarts"]),
        oom_killed=bool(state["oomKilled"]),
        health=state["health"],
    )


_HOSTS: Final[dict[HostConnection, Host]] = {}
_VIEWS: Final[Once[_Place, JobsView]] = Once(_fetch)


def view(props: Mapping[str, Any], kept_seconds: float = KEPT_SECONDS) -> JobsView:
    """Look at the jobs of a data root. props: inputs or outputs with `host` and `root`.

    kept_seconds: how old a look of another resource may be to be shared.
    """
    host = connect(props["host"])
    _HOSTS[host.connection] = host
    return _VIEWS.get(_Place(host.connection, props["root"]), kept_seconds)


def forget() -> None:
    """Drop what was seen: call it after every change on the host."""
    _VIEWS.forget()
