"""The agent's directory: its digest, its contents, its installation on the host.

<root>/agent/<digest>/ holds src/ (our sources), site-packages/ (the locked wheels) and
MANIFEST.json (path to SHA-256 of every file). It is mounted read-only into a stock Python image.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from sync.contract import layout
from sync.providers import wheels
from sync.providers.base import Drift, HostInputs, HostProvider
from sync.providers.host import facts
from sync.providers.host.connection import HostError
from sync.providers.host.host import Host
from sync.providers.host.root_helper import MANIFEST

PROJECT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = PROJECT / "sync" / "agent" / "requirements.lock"


def source_files() -> list[Path]:
    """Return every source of the agent (Python files and its lock), sorted."""
    sync = PROJECT / "sync"
    folders = (sync / "contract", sync / "agent")
    sources = (path for folder in folders for path in folder.rglob("*.py"))
    return sorted([LOCK, sync / "__init__.py", *sources])


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


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a gzip-compressed tar of the files, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getbuffer(), compresslevel=6, mtime=0)


def _digests_in_use(host: Host, root: str) -> set[str]:
    """Digests whose directory some container, running or not, has mounted."""
    listed = host.run_docker("ps", "--all", "--no-trunc", "--format", "{{.Mounts}}")
    folder = PurePosixPath(layout.under(root, layout.AGENTS))
    mounts = (PurePosixPath(mount) for line in listed.splitlines() for mount in line.split(","))
    return {mount.name for mount in mounts if mount.parent == folder}


class BundleInputs(HostInputs):
    """See resources.AgentBundle."""

    digest: str
    path: str


class BundleOutputs(Drift):
    """platform: the host's processor as Docker names it."""

    platform: str = ""


class AgentBundleProvider(HostProvider[BundleInputs, BundleOutputs]):
    """Installs the agent's directory; adopts one that is whole, repairs a damaged one."""

    inputs_type = BundleInputs
    outputs_type = BundleOutputs
    id_form = "{0.root}#agent"

    def apply(self, inputs: BundleInputs, before: BundleOutputs | None) -> BundleOutputs:
        """Install the version beside older ones; those that no container uses are removed."""
        root = inputs.data_root
        architecture = root.on_host().run_docker("version", "--format", "{{.Server.Arch}}").strip()
        if facts.gather(root).bundles.get(inputs.digest) != ():
            if inputs.digest != agent_digest():
                raise HostError(
                    "the agent's sources changed after the program computed their digest; "
                    "run pulumi up again"
                )
            archive = packed(bundle_files(architecture))
            root.as_root("install_bundle", [archive], agents=layout.AGENTS, digest=inputs.digest)
        if before is not None:
            keep = {inputs.digest, *_digests_in_use(root.on_host(), root.path)}
            root.as_root("remove_bundles", agents=layout.AGENTS, keep=sorted(keep))
        return BundleOutputs(platform=architecture)

    def observe(self, inputs: BundleInputs, before: BundleOutputs) -> BundleOutputs | None:
        """See which files are missing or changed."""
        problems = facts.gather(inputs.data_root).bundles.get(inputs.digest)
        return None if problems is None else before.model_copy(update={"drift": problems})

    def remove(self, inputs: BundleInputs, _before: BundleOutputs) -> None:
        """Remove every version from the host."""
        inputs.data_root.as_root("remove_bundles", agents=layout.AGENTS, keep=[])
