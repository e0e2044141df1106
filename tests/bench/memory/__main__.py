"""Run the cases, one container after the other, and print the table."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import docker
from rich.console import Console

from components.settings.limits import LimitSettings
from sync.contract.layout import JOBS, ZDB_ADMIN_FILE, Job
from sync.contract.spec import FlistsSpec, JobSpec, KernelsSpec, UsersSpec
from tests.agent.mirrors import make_directories
from tests.bench.memory import chunks, files
from tests.bench.memory.cases import ACCEPTED, Case
from tests.bench.memory.container import JobContainer, wait_for
from tests.bench.servers import ADMIN_PASSWORD
from tests.sandbox.host import dockerd, images

MIB: Final = 1 << 20
RESULTS: Final = dockerd.PROJECT / "build/bench/memory.json"
_SPECS: Final[dict[Job, type[JobSpec]]] = {
    "users": UsersSpec,
    "kernels": KernelsSpec,
    "flists": FlistsSpec,
}


@dataclass(frozen=True)
class Result:
    """How one size of a case ended; said: ACCEPTED, or why it was refused, or that it hung."""

    job: str
    kind: str
    size: int
    limit_mb: int
    said: str
    own_bytes: int
    charged_bytes: int
    kills: int

    @property
    def accepted(self) -> bool:
        """Whether the job took it."""
        return self.said == ACCEPTED


def measured(client: docker.DockerClient, case: Case, size: int, limit_mb: int) -> Result:
    """Run the job against one size."""
    # On a disk: what a container writes to a folder in memory is counted as its own.
    folder = Path(tempfile.mkdtemp(prefix="gridhub-memory-"))
    try:
        with case.serve(size, folder / "master") as trial:
            directories = make_directories(folder / "job")
            (directories.secrets / ZDB_ADMIN_FILE).write_text(ADMIN_PASSWORD)
            settings: dict[str, Any] = {"stack": "bench", "memory_limit_mb": limit_mb}
            spec = _SPECS[case.job].model_validate({**settings, **trial.settings})
            with JobContainer(client, spec, directories, limit_mb) as container:
                said = wait_for(container, trial.outcome, case.seconds)
            taken = container.taken
            if said is None:
                said = "killed for memory" if taken.kills else f"no end in {case.seconds:g} s"
                print(container.log, file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    taken_bytes = (taken.own_bytes, taken.charged_bytes, taken.kills)
    return Result(case.job, case.kind, size, limit_mb, said, *taken_bytes)


def table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| job | kind | largest that passes | peak MiB | limit MiB | next | peak MiB | reason |"
    yield "|---|---|---|---|---|---|---|---|"
    for job, kind in dict.fromkeys((one.job, one.kind) for one in results):
        own = [one for one in results if (one.job, one.kind) == (job, kind)]
        largest = max((one for one in own if one.accepted), key=lambda one: one.size, default=None)
        least = min((one for one in own if not one.accepted), key=lambda o: o.size, default=None)
        cells = [job, kind, *_cells(largest), str(own[0].limit_mb), *_cells(least)]
        yield f"| {' | '.join([*cells, least.said[:160] if least else ''])} |"


def _cells(one: Result | None) -> list[str]:
    return [f"{one.size:,}", str(one.own_bytes // MIB)] if one else ["none", ""]


def main() -> int:
    """Return 1 where something was killed, or was neither taken nor refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("words", nargs="*", help="only kinds in which one of these stands")
    parser.add_argument("--job", choices=JOBS, action="append")
    parser.add_argument("--limit", type=int, help="MiB in place of the default")
    asked = parser.parse_args()
    console = Console(file=sys.stderr)
    engine = dockerd.ensure(console)
    images.ensure(engine.url, console)
    client = docker.DockerClient(base_url=engine.url, timeout=120)
    results: list[Result] = []
    for case in (*chunks.CASES, *files.CASES):
        if case.job not in (asked.job or JOBS):
            continue
        if asked.words and not any(word in case.kind for word in asked.words):
            continue
        limit_mb = asked.limit or getattr(LimitSettings(), case.job).memory_mb
        for size in case.sizes:
            results.append(measured(client, case, size, limit_mb))
            console.print(asdict(results[-1]), highlight=False)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")
    print("\n".join(table(results)))
    hung = [one for one in results if one.kills or one.said.startswith("no end")]
    print(f"{len(results)} runs, {sum(one.kills for one in results)} killed for memory")
    return 1 if hung else 0


if __name__ == "__main__":
    sys.exit(main())
