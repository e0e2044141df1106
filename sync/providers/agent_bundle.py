"""The agent's directory: its digest, its contents, its installation on the host.

<root>/agent/<digest>/ holds src/ (our sources), site-packages/ (the locked wheels) and
MANIFEST.json (path to SHA-256 of every file). It is mounted read-only into a stock Python image.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from sync.contract import layout
from sync.providers import wheels
from sync.providers.base import HostProvider, decided, refreshed
from sync.providers.host import facts
from sync.providers.host.connection import Command, HostError
from sync.providers.host.host import DataRootGoneError, Host, connect, docker_failure
from sync.providers.host.root_helper import MANIFEST
from sync.providers.props import changed_inputs

PROJECT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = PROJECT / "sync" / "agent" / "requirements.lock"
_SOURCES: Final = ("sync/__init__.py", "sync/contract", "sync/agent")
_INPUTS: Final = ("host", "root", "digest", "path")
_PIECE_BYTES: Final = 1 << 18


def source_files() -> Iterator[Path]:
    """Yield every source of the agent below the project (Python files and its lock), sorted."""
    found: set[Path] = {LOCK}
    for source in _SOURCES:
        path = PROJECT / source
        found.update(path.rglob("*.py") if path.is_dir() else [path])
    yield from sorted(found)


def agent_digest() -> str:
    """Digest (first 16 hex digits of SHA-256) of lock and sources; needs no network."""
    total = hashlib.sha256()
    for path in source_files():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content} {path.relative_to(PROJECT)}\n".encode())
    return total.hexdigest()[:16]


def bundle_path(root: str, digest: str) -> str:
    """Absolute path on the host of the agent with this digest."""
    return str(PurePosixPath(layout.under(root, layout.AGENTS)) / digest)


def bundle_files(architecture: str) -> dict[str, bytes]:
    """Every file of the bundle by its path, sorted; architecture as Docker names it."""
    files = {f"src/{path.relative_to(PROJECT)}": path.read_bytes() for path in source_files()}
    cache = wheels.cache_directory(PROJECT)
    for path, content in wheels.site_packages(LOCK, architecture, cache).items():
        files[f"site-packages/{path}"] = content
    manifest = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    files[MANIFEST] = json.dumps(manifest, sort_keys=True, indent=0).encode()
    return dict(sorted(files.items()))


def packed(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield a gzip-compressed tar of the files, the same bytes for the same files."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = buffer.getbuffer()
    for start in range(0, len(whole), _PIECE_BYTES):
        yield bytes(whole[start : start + _PIECE_BYTES])


def _architecture(host: Host) -> str:
    return host.run_docker("version", "--format", "{{.Server.Arch}}").strip()


def _digests_in_use(host: Host, root: str) -> set[str]:
    """Digests whose directory some container, running or not, has mounted."""
    script = (
        'ids=$("$@" ps --all --quiet) || exit $?; '
        # One that ended meanwhile is an error to inspect, and no reason to stop.
        '[ -z "$ids" ] || '
        '"$@" inspect --format "{{range .Mounts}}{{println .Source}}{{end}}" $ids || true'
    )
    completed = host.run(Command(["sh", "-c", script, "sh", *host.docker()]))
    if completed.status != 0:
        raise docker_failure(host.connection.docker_host, completed)
    listed = completed.stdout.decode(errors="replace")
    folder = PurePosixPath(layout.under(root, layout.AGENTS))
    sources = (PurePosixPath(line) for line in listed.splitlines() if line)
    return {source.name for source in sources if source.parent == folder}


class AgentBundleProvider(HostProvider):
    """Installs the agent's directory on the host; adopts one that is whole, mends a damaged one."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Install the bundle; safe to repeat."""
        return CreateResult(f"{props['root']}#agent", self._install(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Install the new version beside the old; versions that no container uses are removed."""
        record = self._install(_news)
        host = connect(_news["host"])
        keep = {_news["digest"], *_digests_in_use(host, _news["root"])}
        request = {"agents": layout.AGENTS, "keep": sorted(keep)}
        host.as_root("remove_bundles", _news["root"], request)
        facts.forget()
        return UpdateResult(record)

    def _install(self, props: Mapping[str, Any]) -> dict[str, Any]:
        host = connect(props["host"])
        architecture = _architecture(host)
        if facts.survey(props).bundles.get(props["digest"]) != ():
            if props["digest"] != agent_digest():
                raise HostError(
                    "the agent's sources changed after the program computed their digest; "
                    "run pulumi up again"
                )
            request = {"agents": layout.AGENTS, "digest": props["digest"]}
            stream = packed(bundle_files(architecture))
            host.as_root("install_bundle", props["root"], request, stream)
            facts.forget()
        return self._record(props, architecture, [])

    def _record(
        self, props: Mapping[str, Any], architecture: str, drift: list[str]
    ) -> dict[str, Any]:
        inputs = {key: props[key] for key in _INPUTS}
        return {**inputs, "platform": architecture, "drift": drift}

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Tell which files are missing or changed; a bundle that is gone is no resource."""
        problems = facts.survey(props).bundles.get(props["digest"])
        if problems is None:
            return ReadResult(None, {})
        outs = self._record(props, props.get("platform") or "", list(problems))
        return refreshed(id_, {key: props[key] for key in _INPUTS}, outs, problems)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell another digest and damaged files; another root is another resource."""
        if drift := _olds.get("drift"):
            pulumi.log.info(
                f"agent files on the host are damaged ({len(drift)}): {'; '.join(drift[:5])}"
            )
        replaces = ["root"] if _olds.get("root") != _news.get("root") else []
        changed = changed_inputs(_INPUTS, _olds, _news)
        return decided(_olds, changed=bool(changed), repair=bool(drift), replaces=replaces)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove every version from the host."""
        request = {"agents": layout.AGENTS, "keep": []}
        try:
            connect(_props["host"]).as_root("remove_bundles", _props["root"], request)
        except DataRootGoneError:
            return
        finally:
            facts.forget()
