"""Where a host's jobs stand, gathered by one cheap command for all of them.

Spec, status record and the containers' states are readable by anybody who may use Docker, so no
one-shot container is needed: a shell prints them, a line of JSON each. A status record is in a
folder of its job's own, which may put anything in its place: what is no plain file of the size of a
record is named and not read.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from sync.contract import layout
from sync.contract import spec as contract
from sync.contract.layout import Job
from sync.contract.status import StatusRecord
from sync.providers.base import Model
from sync.providers.host.cache import KEPT_SECONDS, Cache
from sync.providers.host.commands import Command
from sync.providers.host.connection import HostError
from sync.providers.host.docker_failure import docker_failure
from sync.providers.host.host import DataRoot

Value = TypeVar("Value")
_SECONDS: Final = 60
_NOT_PASSABLE: Final = 77
_INSPECT: Final = (
    '{"name":{{json .Name}},"running":{{.State.Running}},"status":{{json .State.Status}},'
    '"exitCode":{{.State.ExitCode}},"oomKilled":{{.State.OOMKilled}},"health":'
    "{{if .State.Health}}{{json .State.Health.Status}}{{else}}null{{end}}}"
)
# A record has a hundred names twice, and ten errors; a spec the names of a master.
_BLOCK_BYTES: Final = 64 << 10
_LIMIT_BLOCKS: Final = 8
# What is said in place of a file's content; no spec and no record is one of these.
_NO_FILES: Final = ("a symbolic link", "a directory", "a FIFO, socket or device")
_LINK, _DIRECTORY, _OTHER = _NO_FILES
# $1: data root, $2: format of docker inspect, then the docker command. Prints the host's time, each
# job's files (a line in base64, empty when absent, in words when it is no file) and the
# containers; ends with docker's status. Whatever takes a file's place after it was looked at:
# `nofollow` opens no link, and `nonblock` waits for nobody who would write into a FIFO. A dd that
# lacks them (busybox) leaves that moment to the time limit of the command.
_SCRIPT: Final = f"""
root=$1; format=$2; shift 2
if ! why=$(LC_ALL=C ls -d "$root/." 2>&1); then
  case $why in *ermission*) exit {_NOT_PASSABLE};; esac
fi
date +%s
open=iflag=nofollow,nonblock
dd if=/dev/null of=/dev/null $open 2>/dev/null || open=
for job in {" ".join(layout.JOBS)}; do
  for file in spec/{layout.SPEC_FILE} state/{layout.STATUS_FILE}; do
    path=$root/{layout.SYNC}/$job/$file
    if [ -L "$path" ]; then printf '{_LINK}'
    elif [ -d "$path" ]; then printf '{_DIRECTORY}'
    elif [ -f "$path" ]; then
      dd if="$path" $open bs={_BLOCK_BYTES} count={_LIMIT_BLOCKS + 1} 2>/dev/null
    elif [ -e "$path" ]; then printf '{_OTHER}'
    fi | base64 | tr -d '\\n'
    echo
  done
done
ids=$("$@" ps --all --quiet --no-trunc) || exit $?
[ -z "$ids" ] || "$@" inspect --type container --format "$format" $ids || true
"""


class ContainerState(Model):
    """A container as Docker sees it. health is None where it has no check."""

    name: str
    running: bool = True
    status: str = "running"
    exit_code: int = 0
    oom_killed: bool = False
    health: str | None = None


@dataclass(frozen=True)
class JobFiles:
    """spec and record as they stand on the host; None where a file is absent or unreadable.

    in_its_place: what is there instead of a record that can be one, in words with its path.
    """

    spec: contract.JobSpec | None
    spec_written: bool
    record: StatusRecord | None
    in_its_place: str = ""


@dataclass(frozen=True)
class JobsView:
    """The three jobs' files and all containers, at `now` (the host's clock)."""

    now: datetime
    files: Mapping[Job, JobFiles]
    containers: Mapping[str, ContainerState]


def _fetch(root: DataRoot) -> JobsView:
    host = root.on_host()
    argv = ["sh", "-c", _SCRIPT, "sh", root.path, _INSPECT, *host.docker()]
    completed = host.run(Command(argv, timeout_seconds=_SECONDS))
    if completed.status == _NOT_PASSABLE:
        raise HostError(
            f"{root.connection.docker_host}: this user may not enter {root.path}, so the jobs "
            "cannot be seen; make it and the folders above it passable (chmod a+x)"
        )
    if completed.status != 0:
        raise docker_failure(root.connection.docker_host, completed)
    return parse(completed.stdout.decode(errors="replace"), root.path)


def parse(printed: str, root: str = "") -> JobsView:
    """Read what the script printed. root: the data root, for messages."""
    lines = iter(printed.splitlines())
    now = datetime.fromtimestamp(int(next(lines)), UTC)
    files = {job: _job_files(lines, layout.under(root, _record_path(job))) for job in layout.JOBS}
    containers = [ContainerState.model_validate_json(line) for line in lines if line.strip()]
    return JobsView(now, files, {entry.name.removeprefix("/"): entry for entry in containers})


def _record_path(job: Job) -> str:
    return f"{layout.job_state_dir(job)}/{layout.STATUS_FILE}"


def _job_files(lines: Iterator[str], path: str) -> JobFiles:
    spec, in_place_of_spec = _content(next(lines, ""))
    record, in_its_place = _content(next(lines, ""))
    return JobFiles(
        _readable(contract.parse, spec),
        bool(spec or in_place_of_spec),
        _readable(_record, record),
        f"{path} is {in_its_place}" if in_its_place else "",
    )


def _content(line: str) -> tuple[bytes, str]:
    """Return a file's content, or what is there instead of a file of a sane size."""
    content, limit_bytes = base64.b64decode(line), _BLOCK_BYTES * _LIMIT_BLOCKS
    for words in _NO_FILES:
        if content == words.encode():
            return b"", f"{words}, no plain file"
    if len(content) > limit_bytes:
        return b"", f"larger than {limit_bytes} bytes"
    return content, ""


def _readable(parse: Callable[[bytes], Value], content: bytes) -> Value | None:
    try:
        return parse(content) if content else None
    except (ValueError, RecursionError):  # a ValidationError is one
        return None


def _record(content: bytes) -> StatusRecord:
    # The state takes numbers that a float of 64 bits holds (pulumi: sdk/proto/go, google.protobuf
    # Struct), and no others: one would fail every `up`.
    json.loads(content, parse_int=_number, parse_float=_number, parse_constant=_number)
    return StatusRecord.model_validate_json(content)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number that a record holds")
    return number


_VIEWS: Final[Cache[DataRoot, JobsView]] = Cache(_fetch)


def view(root: DataRoot, kept_seconds: float = KEPT_SECONDS) -> JobsView:
    """Look at the jobs of a data root; kept_seconds: how old a shared view may be."""
    return _VIEWS.get(root, kept_seconds)
