"""A stack of its own for a test: project copy, backend, master, DNS, ports, data root."""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

import docker
import yaml
from docker.models.containers import Container
from rich.console import Console

from sync.contract.layout import STATUS_FILE, Job, job_state_dir
from sync.contract.status import StatusRecord
from tests.sandbox.host import dockerd, images, run
from tests.sandbox.host.dockerd import PROJECT
from tests.sandbox.host.ports import free_port
from tests.sandbox.host.processes import wait_until
from tests.sandbox.host.world import Wan
from tests.sandbox.pulumi.workspace import PulumiError, Workspace
from tests.sandbox.upstream import Upstream, standard_world

_NO_CHANGE: Final = ("same", "read", "refresh")
_PROGRAM: Final = ("Pulumi.yaml", "__main__.py", "components", "gate", "hub_tools", "sync")


@dataclass
class MirrorStack:
    """One stack under test; `config` is written to its stack file before every command."""

    name: str
    workspace: Workspace
    root: Path
    engine: dockerd.DockerEngine
    config: dict[str, Any]
    http_port: int
    https_port: int
    zdb_port: int

    def environment_for_dns(self, api_url: str, token: str) -> None:
        """Lead the stack's DNS records to a DNS API."""
        self.add_environment({"CLOUDFLARE_BASE_URL": api_url, "CLOUDFLARE_API_TOKEN": token})

    def add_environment(self, variables: dict[str, str]) -> None:
        """Set environment variables for every further command."""
        environment = {**self.workspace.environment, **variables}
        self.workspace = dataclasses.replace(self.workspace, environment=environment)

    @property
    def domain(self) -> str:
        """The mirror's domain."""
        return str(self.config["domain"])

    @property
    def stack_file(self) -> Path:
        """Where the stack's configuration is."""
        return self.workspace.project / "stacks" / f"Pulumi.{self.name}.yaml"

    def write_config(self) -> None:
        """Write the configuration, keeping what pulumi itself put there (salt, secrets)."""
        found = yaml.safe_load(self.stack_file.read_text()) if self.stack_file.exists() else {}
        kept = found or {}
        ours = {f"gridhub:{key}": value for key, value in self.config.items()}
        secret = {
            key: value
            for key, value in kept.get("config", {}).items()
            if isinstance(value, dict) and "secure" in value
        }
        kept["config"] = {**ours, **secret}
        self.stack_file.write_text(yaml.safe_dump(kept, sort_keys=True))

    def pulumi(self, *arguments: str, check: bool = True) -> str:
        """Run pulumi on this stack with the present configuration."""
        self.write_config()
        return self.workspace.run(*arguments, "--stack", self.name, check=check)

    def up(self, *arguments: str) -> str:
        """Run `pulumi up`; what fails tells of the containers that are not well."""
        try:
            return self.pulumi("up", "--yes", "--skip-preview", *arguments)
        except PulumiError as error:
            error.add_note(self.ailing())
            raise

    def refresh(self) -> str:
        """Run `pulumi refresh`."""
        return self.pulumi("refresh", "--yes", "--skip-preview")

    def destroy(self) -> str:
        """Run `pulumi destroy`."""
        return self.pulumi("destroy", "--yes", "--skip-preview")

    def preview(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the steps of a preview that change something."""
        said = json.loads(self.pulumi("preview", "--json", *arguments))
        return [
            step for step in said.get("steps", []) if step["op"] not in ("same", "read", "refresh")
        ]

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs."""
        told: dict[str, Any] = json.loads(self.pulumi("stack", "output", "--json"))
        return told

    def state(self) -> dict[str, Any]:
        """Return the exported deployment."""
        told: dict[str, Any] = json.loads(self.pulumi("stack", "export"))
        return told

    def recorded(self, job: Job) -> dict[str, Any]:
        """Return what the stack's state holds of a job's record."""
        name = f"::sync-{job}-sync"
        resources = self.state()["deployment"]["resources"]
        outputs: dict[str, Any] = next(r for r in resources if r["urn"].endswith(name))["outputs"]
        return outputs

    def record(self, job: Job) -> StatusRecord:
        """Read a job's status record from the host."""
        path = self.root / job_state_dir(job) / STATUS_FILE
        return StatusRecord.model_validate_json(path.read_bytes())

    def wait_for(self, job: Job, what: str, seconds: float = 60) -> StatusRecord:
        """Wait until the job is in sync (`what` says for the message), else TimeoutError."""

        def in_sync() -> bool:
            return self.record(job).phase in ("idle", "following")

        wait_until(in_sync, f"{job}: {what}", seconds)
        return self.record(job)

    def client(self) -> docker.DockerClient:
        """Return a client of the engine; close it."""
        return docker.DockerClient(base_url=self.engine.url, timeout=60)

    def containers(self) -> dict[str, Container]:
        """Return the stack's containers by service name, running or not."""
        prefix = f"gridhub-{self.name}-"
        with contextlib.closing(self.client()) as client:
            found = client.containers.list(
                all=True, filters={"name": f"^/{prefix}"}, ignore_removed=True
            )
            return {str(container.name).removeprefix(prefix): container for container in found}

    def ailing(self) -> str:
        """Tell state, last probes and last words of each container that is not healthy."""
        told: list[str] = []
        for service, container in sorted(self.containers().items()):
            state = container.attrs["State"]
            health = state.get("Health", {})
            if state["Status"] == "running" and health.get("Status") == "healthy":
                continue
            facts = {key: state.get(key) for key in ("Status", "ExitCode", "OOMKilled", "Error")}
            facts |= {"Restarts": container.attrs["RestartCount"], "Health": health.get("Status")}
            probes = [(probe["ExitCode"], probe["Output"]) for probe in health.get("Log", [])[-3:]]
            log = container.logs(tail=40).decode(errors="replace")
            told.append(f"{service}: {facts}\n  probes: {probes}\n{log}")
        return "\n".join(told) or "every container that was made is healthy"

    def networks(self) -> list[str]:
        """Return the names of the stack's networks on the engine."""
        with contextlib.closing(self.client()) as client:
            return [str(n.name) for n in client.networks.list(names=[f"^gridhub-{self.name}"])]


def steps_of(stack: MirrorStack, *arguments: str) -> dict[str, str]:
    """Return what a preview would do, by resource name."""
    return {step["urn"].rsplit("::", 1)[1]: step["op"] for step in stack.preview(*arguments)}


@dataclass(frozen=True)
class Ground:
    """What several stacks of a test run stand on: an engine with images, and the wan."""

    engine: dockerd.DockerEngine
    wan: Wan


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Provide images and a network whose gateway is where masters listen."""
    engine = dockerd.find()
    if engine is None:
        raise RuntimeError("no Docker Engine answers: run `make test`, which starts one")
    images.ensure(engine.url, Console(stderr=True))
    wan = _wan(engine.url)
    try:
        yield Ground(engine, wan)
    finally:
        wan.remove(engine.url)


def _new_name() -> str:
    """Return a name by which the end of the run finds what was made under it."""
    return f"e2e-{os.environ.get(run.MARK, '')}{secrets.token_hex(3)}"


def _wan(url: str, tries: int = 5) -> Wan:
    """Create a network in subnets that no other has."""
    number = secrets.randbelow(200) + 20
    wan = Wan(
        f"gridhub-{_new_name()}-wan",
        IPv4Network(f"172.30.{number}.0/24"),
        IPv6Network(f"fd00:30:{number:x}::/64"),
    )
    try:
        wan.create(url)
    except RuntimeError:
        if tries == 1:
            raise
        return _wan(url, tries - 1)
    return wan


def project_copy(target: Path) -> Path:
    """Copy the program (no stack files, no state) to `target` and return it."""
    target.mkdir(parents=True)
    for name in _PROGRAM:
        source = PROJECT / name
        if source.is_dir():
            # What is compiled already is not compiled anew; `.pyc.*` is on its way to be.
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy2(source, target / name)
    (target / "stacks").mkdir()
    # Pulumi.yaml names the virtual environment by a relative path.
    (target / ".venv").symlink_to(PROJECT / ".venv")
    return target


def base_config(name: str, place: Ground, master: Upstream, root: Path) -> dict[str, Any]:
    """Return a sandbox configuration: high ports on both loopbacks, everything small and quick."""
    ports = {key: free_port() for key in ("http", "https", "zdb")}
    quick = {"schedule": {"intervalSeconds": 1.0, "jitter": 0.0}, "freeSpaceFloorBytes": 0}
    return {
        "domain": f"{name}.test",
        "dataRoot": str(root),
        "host": {"docker": place.engine.url},
        "bind": {"ipv4": ["127.0.0.1"], "ipv6": ["::1"]},
        "ports": ports,
        "publicAddresses": {"ipv4": ["203.0.113.10"], "ipv6": ["2001:db8::10"]},
        "acme": {"ca": "internal"},
        "images": {service: images.reference(service) for service in images.REAL},
        "source": {
            "hub": f"http://{place.wan.gateway}:{master.hub.port}",
            "bootstrap": f"http://{place.wan.gateway}:{master.bootstrap.port}",
            "zdb": {"host": place.wan.gateway, "port": master.zdb.port},
        },
        "users": quick,
        "kernels": quick,
        "flists": {"freeSpaceFloorBytes": 0, "deleteCheckSeconds": 2.0},
        "ready": "in-sync",
        "readyTimeoutSeconds": 120,
        # A probe costs an engine 0.1 s of work, and eight containers have one each.
        "healthIntervalSeconds": 5,
        "preflight": {"cores": 1, "memoryMb": 512, "freeSpaceGb": 1.0, "checkDns": False},
    }


@contextlib.contextmanager
def mirror_stack(
    place: Ground, master: Upstream, directory: Path, **config: Any
) -> Iterator[MirrorStack]:
    """Provide a stack (not up yet); at the end nothing of it is left on the engine or the disk.

    That `pulumi destroy` does the same is for tests to show: it takes ten times as long.

    config: top-level settings on top of `base_config`.
    """
    name = _new_name()
    root = run.DATA_ROOTS / f"gridhub-{name}"
    workspace = Workspace(
        project=project_copy(directory / "project"),
        backend=directory / "backend",
        passphrase=secrets.token_hex(8),
        environment={
            "DOCKER_HOST": place.engine.url,
            "GRIDHUB_CACHE": str(PROJECT / ".pulumi-cache"),
            "HOME": os.environ.get("HOME", "/root"),
        },
    )
    settings = {**base_config(name, place, master, root), **config}
    ports = settings["ports"]
    stack = MirrorStack(
        name, workspace, root, place.engine, settings, ports["http"], ports["https"], ports["zdb"]
    )
    workspace.run("stack", "init", name)
    try:
        yield stack
    finally:
        run.remove_stacks(place.engine.url, name)
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def running_mirror(
    place: Ground, directory: Path, **config: Any
) -> Iterator[tuple[MirrorStack, Upstream]]:
    """Provide a mirror that is up, and its master: what a file's tests share.

    config: as in `mirror_stack`.
    """
    upstream = Upstream(addresses=(place.wan.gateway,))
    standard_world(upstream.model)
    with upstream, mirror_stack(place, upstream, directory, **config) as stack:
        stack.up()
        yield stack, upstream
