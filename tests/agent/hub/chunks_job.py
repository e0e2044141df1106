"""The flists job beside a users job: from the same master to the same 0-db."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sync.contract.spec import FlistsSpec, ZdbEndpoint
from tests.agent.chunks.chunks_mirror import Job
from tests.agent.mirrors import QUICK, UsersMirror


def chunks_job(mirror: UsersMirror, state: Path, **settings: Any) -> Job:
    """Return one that does not run yet; state: its folder, which is made."""
    state.mkdir()
    zdb = mirror.upstream.zdb
    values: dict[str, Any] = {
        "stack": "test",
        "sources": [ZdbEndpoint(host=zdb.address, port=zdb.port)],
        "local_zdb": ZdbEndpoint(host=mirror.zdb.address, port=mirror.zdb.port),
        "backoff": QUICK,
        "poll_seconds": 0.2,
        "connections": 2,
        "free_space_floor_bytes": 0,
    }
    directories = replace(mirror.directories, state=state, users_state=mirror.directories.state)
    return Job(FlistsSpec(**(values | settings)), directories)
