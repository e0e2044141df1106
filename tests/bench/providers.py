"""What an empty `preview --refresh` costs in our providers, over SSH.

`python -m tests.bench.providers` starts Pulumi's dynamic provider server as the engine does, and
asks it to read and diff the three jobs (and then the stack's directories, files and agent) of a
prepared data root, at a round trip of 0 and of 30 ms. Needs root and a Docker Engine.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
from pulumi.dynamic.dynamic import PROVIDER_KEY, serialize_provider
from pulumi.runtime import rpc
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from sync.contract import layout
from sync.contract import spec as contract
from sync.providers.agent_bundle import AgentBundleProvider, agent_digest, bundle_path
from sync.providers.host_directories import HostDirectoriesProvider
from sync.providers.host_files import HostFilesProvider
from sync.providers.jobs import JobProvider
from tests.sandbox import wan
from tests.sandbox.host import dockerd, sshd

PROJECT: Final = Path(__file__).resolve().parents[2]
_ZDB: Final = contract.ZdbEndpoint(host="127.0.0.1", port=1)
_HUB: Final = "http://127.0.0.1:1"


def _specs() -> dict[layout.Job, dict[str, Any]]:
    users = contract.UsersSpec(stack="bench", source=_HUB, source_zdb=_ZDB, local_zdb=_ZDB)
    kernels = contract.KernelsSpec(stack="bench", source=_HUB)
    flists = contract.FlistsSpec(stack="bench", source=_ZDB, local_zdb=_ZDB)
    return {spec.job: spec.model_dump(mode="json") for spec in (users, kernels, flists)}


@dataclass(frozen=True)
class Installed:
    """A resource as the state has it."""

    inputs: dict[str, Any]
    outs: dict[str, Any]


def _install(host: dict[str, str], root: str) -> tuple[list[Installed], list[Installed]]:
    """Create every resource over `host`; returns the jobs and the others."""
    common = {"host": host, "root": root}
    listed = [
        {"path": d.path, "uid": d.uid, "mode": d.mode} for d in layout.directories(hub_writes=False)
    ]
    digest = agent_digest()
    bundle = {**common, "digest": digest, "path": bundle_path(root, digest)}
    file = {"path": "config/caddy/Caddyfile", "uid": 0, "mode": 0o644, "content": "x"}
    others: list[tuple[Any, dict[str, Any]]] = [
        (HostDirectoriesProvider(), {**common, "directories": listed, "purge": True}),
        (HostFilesProvider(), {**common, "files": [file]}),
        (AgentBundleProvider(), bundle),
    ]
    jobs: list[tuple[Any, dict[str, Any]]] = [
        (
            JobProvider(),
            {
                **common,
                "job": job,
                "spec": spec,
                "agentVersion": digest,
                "containerName": f"bench-{job}",
                "ready": "started",
                "readyTimeoutSeconds": 0,
                "purge": False,
            },
        )
        for job, spec in _specs().items()
    ]
    made = []
    for provider, inputs in [*others, *jobs]:
        key = {PROVIDER_KEY: serialize_provider(provider)}
        outs = {name: out for name, out in provider.create(inputs).outs.items() if out is not None}
        made.append(Installed({**key, **inputs}, {**key, **outs}))
    return made[len(others) :], made[: len(others)]


@contextmanager
def _server() -> Iterator[tuple[Any, float]]:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.dynamic", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        channel = grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}")
        yield provider_pb2_grpc.ResourceProviderStub(channel), time.monotonic() - started
        channel.close()
    finally:
        process.terminate()
        process.wait(10)


def _read_and_diff(stub: Any, resource: Installed) -> None:
    """Do what a refresh does with one resource."""
    outs = asyncio.run(rpc.serialize_properties(resource.outs, {}))
    news = asyncio.run(rpc.serialize_properties(resource.inputs, {}))
    read = stub.Read(provider_pb2.ReadRequest(id="x", properties=outs), timeout=60)
    stub.Diff(provider_pb2.DiffRequest(id="x", olds=read.properties, news=news), timeout=60)


def _seconds(stub: Any, resources: list[Installed]) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(len(resources)) as pool:
        list(pool.map(lambda resource: _read_and_diff(stub, resource), resources))
    return time.monotonic() - started


def _measure(server: sshd.Sshd, root: str, image: str, rtt_ms: float) -> dict[str, float]:
    link = wan.Link(rtt_seconds=rtt_ms / 1000)
    with wan.relay_process(("127.0.0.1", server.port), link) as (address, port):
        far = replace(server, port=port)
        known = server.known_hosts.read_text().replace(f":{server.port} ", f":{port} ")
        far.known_hosts.write_text(server.known_hosts.read_text() + known)
        host = far.connection("root", image, address)
        jobs, others = _install(host, root)
        with _server() as (stub, start_seconds):
            return {
                "rtt_ms": rtt_ms,
                "server_start_seconds": round(start_seconds, 3),
                "three_jobs_seconds": round(_seconds(stub, jobs), 3),
                "directories_files_agent_seconds": round(_seconds(stub, others), 3),
            }


def main() -> None:
    """Print one JSON object per run and round trip."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True, help="helper image with Python 3.11")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    engine = dockerd.find()
    if engine is None or sshd.missing():
        sys.exit(sshd.missing() or "no Docker Engine answers")
    with tempfile.TemporaryDirectory(prefix="bench-providers-") as folder:
        settings = sshd.SshdSettings(docker_host=engine.url)
        with sshd.running(Path(folder), settings) as server:
            for rtt_ms in (0.0, 30.0):
                for _run in range(options.runs):
                    root = str(Path(folder) / "srv")
                    print(json.dumps(_measure(server, root, options.image, rtt_ms)), flush=True)


if __name__ == "__main__":
    main()
