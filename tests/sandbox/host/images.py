"""Service images for the sandbox: the real ones where a registry answers, else stand-ins.

Either way each service's image gets the local tag that stacks/Pulumi.sandbox.yaml names, so the
program is the same. The stand-ins are one Debian base (mmdebstrap) with this project's
own servers on top; they speak the same protocols on the same ports and paths.
"""

import contextlib
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import docker
import requests
from docker.errors import DockerException, ImageNotFound
from rich.console import Console

from tests.sandbox.host import locks, packages
from tests.sandbox.host.dockerd import PROJECT, SANDBOX

Service: TypeAlias = Literal["zdb", "hub", "bootstrap", "caddy", "python"]
Kind: TypeAlias = Literal["real", "stand-in"]
TAG: Final = "sandbox"
BASE_PACKAGES: Final = ("python3", "python3-nacl", "caddy", "busybox", "ca-certificates")
_DIGEST_LABEL: Final = "gridhub.content"
_STANDIN: Final = "/opt/standin"

REAL: Final[dict[Service, str]] = {
    "zdb": "ghcr.io/threefoldtech/0-db:development-v2",
    "hub": "ghcr.io/threefoldtech/zos_flist_hub:master",
    "bootstrap": "ghcr.io/threefoldtech/zos_bootstrap:development-v3",
    "caddy": "docker.io/library/caddy:2.8.4",
    "python": "docker.io/library/python:3.11-slim",
}
_COMMANDS: Final[dict[Service, list[str]]] = {
    "zdb": ["/bin/zdb"],
    "hub": [
        "python3",
        "-m",
        "tests.sandbox.services.hub",
        "--config",
        "/hub/src/config.py",
    ],
    "bootstrap": [
        "python3",
        "-m",
        "tests.sandbox.services.bootstrap",
        "--config",
        "/bootstrap/config.py",
    ],
    "caddy": ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"],
    "python": ["python3"],
}
# Only these run the stand-ins' sources; the other two are the bare Debian base.
_WITH_SOURCES: Final[frozenset[Service]] = frozenset({"zdb", "hub", "bootstrap"})
_LAUNCHERS: Final = {"bin/zdb": "zdb", "bin/zflist": "zflist"}
_LAUNCHER: Final = '#!/bin/sh\nPYTHONPATH={} exec python3 -m tests.sandbox.services.{} "$@"\n'


@dataclass(frozen=True)
class ServiceImage:
    """A service's image on the engine: `reference` is what the stack config names."""

    service: Service
    reference: str
    kind: Kind


def reference(service: Service) -> str:
    """Local name of a service's image."""
    return f"localhost/gridhub-{service}:{TAG}"


def ensure(url: str, console: Console) -> list[ServiceImage]:
    """Have all five images on the engine at `url`; say which kind is in use.

    SANDBOX_IMAGES=real|stand-in overrides what is found out by asking the registry. Who comes while
    another makes them waits, and finds them.
    """
    with locks.held(SANDBOX / "run" / "images.lock"):
        return _ensured(url, console, _wanted_kind())


def _ensured(url: str, console: Console, kind: Kind) -> list[ServiceImage]:
    client = docker.DockerClient(base_url=url, timeout=600)
    try:
        if kind == "real":
            return [_pull(client, service, console) for service in REAL]
        base = _ensure_base(client, console)
        return [_ensure_standin(client, service, base, console) for service in REAL]
    finally:
        client.close()


def _wanted_kind() -> Kind:
    asked = os.environ.get("SANDBOX_IMAGES", "")
    if asked == "real":
        return "real"
    if asked == "stand-in":
        return "stand-in"
    if asked:
        raise ValueError(f"SANDBOX_IMAGES={asked}: must be real or stand-in")
    return "real" if all(_registry_answers(host) for host in _registries()) else "stand-in"


def _registries() -> list[str]:
    hosts = {name.split("/")[0] for name in REAL.values()}
    return sorted("registry-1.docker.io" if host == "docker.io" else host for host in hosts)


def _registry_answers(host: str) -> bool:
    try:
        return requests.get(f"https://{host}/v2/", timeout=3).status_code in (200, 401)
    except requests.RequestException:
        return False


def _pull(client: docker.DockerClient, service: Service, console: Console) -> ServiceImage:
    console.print(f"Pulling {REAL[service]}")
    repository, _, tag = REAL[service].rpartition(":")
    image = client.images.pull(repository, tag=tag)
    image.tag(*reference(service).rsplit(":", 1))
    return ServiceImage(service, reference(service), "real")


def _ensure_base(client: docker.DockerClient, console: Console) -> str:
    name = _base_name()
    try:
        client.images.get(name)
    except ImageNotFound:
        console.print("No image registry answers: building a Debian base for the stand-ins.")
        packages.ensure({"mmdebstrap": "mmdebstrap"}, console)
        _bootstrap_debian(client, name)
    return name


def _base_name() -> str:
    recipe = hashlib.sha256(" ".join(BASE_PACKAGES).encode()).hexdigest()[:12]
    return f"localhost/gridhub-base:{recipe}"


def _bootstrap_debian(client: docker.DockerClient, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="gridhub-base-") as directory:
        archive = Path(directory) / "base.tar"
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(BASE_PACKAGES)}",
            *(f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale")),
            "bookworm",
            str(archive),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"mmdebstrap failed: {done.stderr.strip()[-500:]}")
        repository, tag = name.rsplit(":", 1)
        client.api.import_image_from_file(str(archive), repository=repository, tag=tag)


def _ensure_standin(
    client: docker.DockerClient, service: Service, base: str, console: Console
) -> ServiceImage:
    context = _context(service, base)
    content = hashlib.sha256(context).hexdigest()
    name = reference(service)
    try:
        current = client.images.get(name).labels.get(_DIGEST_LABEL)
    except ImageNotFound:
        current = None
    if current != content:
        console.print(f"Building stand-in image {name}")
        try:
            client.images.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=name,
                labels={_DIGEST_LABEL: content},
                rm=True,
                network_mode="none",
            )
        except DockerException as error:
            raise RuntimeError(f"cannot build {name}: {error}") from error
    return ServiceImage(service, name, "stand-in")


def _context(service: Service, base: str) -> bytes:
    """Tar of a build context: the same sources give the same bytes."""
    files = {"Dockerfile": _dockerfile(service, base).encode()}
    if service in _WITH_SOURCES:
        files.update(_sources())
        for path, module in _LAUNCHERS.items():
            files[path] = _LAUNCHER.format(_STANDIN, module).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            member.mode = 0o755 if path.startswith("bin/") else 0o644
            archive.addfile(member, io.BytesIO(files[path]))
    return buffer.getvalue()


def _sources() -> dict[str, bytes]:
    roots = ("tests/sandbox/services", "tests/sandbox/flist", "tests/sandbox/upstream")
    paths = [PROJECT / "tests/__init__.py", PROJECT / "tests/sandbox/__init__.py"]
    for root in roots:
        paths += sorted((PROJECT / root).rglob("*.py"))
    return {f"standin/{path.relative_to(PROJECT)}": path.read_bytes() for path in paths}


def _dockerfile(service: Service, base: str) -> str:
    lines = [f"FROM {base}"]
    if service in _WITH_SOURCES:
        lines += [
            f"COPY standin {_STANDIN}",
            "COPY bin/zdb /bin/zdb",
            "COPY bin/zflist /usr/bin/zflist",
            # The real 0-db image is busybox: the health check's nc is its.
            "RUN ln -s /bin/busybox /usr/local/bin/nc",
            f"ENV PYTHONPATH={_STANDIN} PYTHONDONTWRITEBYTECODE=1",
        ]
    command = ", ".join(f'"{word}"' for word in _COMMANDS[service])
    lines.append(f"CMD [{command}]")
    return "\n".join(lines) + "\n"


def remove(url: str) -> None:
    """Remove the images that `ensure` made from the engine at `url`, and no others."""
    client = docker.DockerClient(base_url=url, timeout=120)
    try:
        for name in [*(reference(service) for service in REAL), _base_name()]:
            with contextlib.suppress(ImageNotFound):
                client.images.remove(name)
        # Earlier builds, which a newer one took the tag from.
        client.images.prune(filters={"dangling": True, "label": [_DIGEST_LABEL]})
    finally:
        client.close()
