"""The master's content as one model that tests edit directly.

Every edit is atomic for those who are served, and leaves the traces that it leaves on a real
hub: an in-place overwrite changes the file's time but not the directory's, a rename both.
"""

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sandbox.flist import Backend, Flist, Packed, pack_directory
from tests.sandbox.services.http import Content
from tests.sandbox.services.hub_api import FLIST, TAG_PREFIX
from tests.sandbox.services.zdb import Namespace, Settings, Store
from tests.sandbox.upstream.nodes import File, Link, ModelTree, Node, Repository, Tag

RUN_MODES: Final = ("prod", "test", "dev", "qa")

# What a flist can be made of: a directory to pack, something packed, or bytes taken as they are.
Source = Path | Packed | bytes


@dataclass(frozen=True)
class Snapshot:
    """The model's content at one moment (see `rewind`)."""

    repositories: dict[str, Repository]
    kernels: dict[str, File]
    net_links: dict[str, str | File]
    kernel_links: dict[str, str]
    namespaces: dict[str, Namespace]


class UpstreamModel:
    """Repositories, kernels, net links and 0-db of a master. `lock` guards all of them.

    backend: what the packed flists name as the home of their chunks. sources: the directory each
    flist was packed from, by `REPO/F.flist`, for those that compare.
    """

    def __init__(
        self,
        backend: Backend = Backend("hub.grid.tf"),  # noqa: B008 - frozen
        zdb: Settings = Settings(admin="master-admin", protect=True),  # noqa: B008 - frozen
    ) -> None:
        self.backend = backend
        self.store = Store(zdb)
        self.lock = self.store.lock
        self.repositories: dict[str, Repository] = {}
        self.kernels: dict[str, File] = {}
        self.net_links: dict[str, str | File] = {}
        self.kernel_links: dict[str, str] = {}
        self.sources: dict[str, Path] = {}
        self.now = time.time

    @property
    def tree(self) -> ModelTree:
        """The hub's view."""
        return ModelTree(self.repositories)

    # -- repositories ------------------------------------------------------------------------

    def repository(self, name: str) -> Repository:
        """Return a repository, made if it is not there."""
        with self.lock:
            return self.repositories.setdefault(name, Repository(self.now()))

    def rename_repository(self, old: str, new: str) -> None:
        """Give a repository another name; its times stay."""
        with self.lock:
            self.repositories[new] = self.repositories.pop(old)
            for path in [path for path in self.sources if path.startswith(f"{old}/")]:
                self.sources[f"{new}/{path.partition('/')[2]}"] = self.sources.pop(path)

    def delete_repository(self, name: str) -> None:
        """Remove a repository with all that is in it."""
        with self.lock:
            del self.repositories[name]

    def put_node(self, repository: str, name: str, node: Node) -> None:
        """Place any node under any name: the way for hostile names and links."""
        with self.lock:
            found = self.repository(repository)
            found.nodes[name] = node
            found.modified = self.now()

    # -- flists ------------------------------------------------------------------------------

    def add_flist(
        self, repository: str, name: str, source: Source, modified: float | None = None
    ) -> bytes:
        """Publish a flist with its chunks; returns its bytes."""
        data = self._stored(source)
        with self.lock:
            at = self.now() if modified is None else modified
            self.put_node(repository, name, File(data, at))
            self._remember(repository, name, source)
        return data

    def change_flist(
        self,
        repository: str,
        name: str,
        source: Source,
        *,
        in_place: bool = True,
        modified: float | None = None,
    ) -> bytes:
        """Overwrite a flist in place, or put another file there by rename (whatever its age)."""
        data = self._stored(source)
        with self.lock:
            found = self.repositories[repository]
            at = self.now() if modified is None else modified
            found.nodes[name] = File(data, at)
            if not in_place:
                found.modified = self.now()
            self._remember(repository, name, source)
        return data

    def delete_flist(self, repository: str, name: str) -> None:
        """Remove a flist, link or taglink; chunks stay."""
        with self.lock:
            found = self.repositories[repository]
            del found.nodes[name]
            found.modified = self.now()
            self.sources.pop(f"{repository}/{name}", None)

    def rename_flist(self, repository: str, old: str, new: str) -> None:
        """Rename a file over whatever stands there; its times stay."""
        with self.lock:
            found = self.repositories[repository]
            found.nodes[new] = found.nodes.pop(old)
            found.modified = self.now()

    def _stored(self, source: Source) -> bytes:
        packed = pack_directory(source) if isinstance(source, Path) else source
        if isinstance(packed, bytes):
            return packed
        self.add_chunks(packed.chunks)
        return packed.archive(self.backend)

    def _remember(self, repository: str, name: str, source: Source) -> None:
        self.sources.pop(f"{repository}/{name}", None)
        if isinstance(source, Path):
            self.sources[f"{repository}/{name}"] = source

    # -- links and tags ----------------------------------------------------------------------

    def set_link(self, repository: str, name: str, target: str) -> None:
        """Make or retarget a symlink. target: `F.flist` here, or `REPO2/F.flist`."""
        text = f"../{target}" if "/" in target else target
        self.put_node(repository, name, Link(text, self.now()))

    def set_tag(self, repository: str, tag: str, links: Mapping[str, str]) -> None:
        """Make or replace a tag: link name to `REPO2/F.flist`."""
        made = {name: Link(f"../../{target}", self.now()) for name, target in links.items()}
        self.put_node(repository, TAG_PREFIX + tag, Tag(made, self.now()))

    def retarget_tag(self, repository: str, tag: str, name: str, target: str) -> None:
        """Point one link of a tag at `REPO2/F.flist`."""
        with self.lock:
            node = self.repositories[repository].nodes[TAG_PREFIX + tag]
            if not isinstance(node, Tag):
                raise TypeError(f"{repository}/{tag} is no tag")
            node.links[name] = Link(f"../../{target}", self.now())
            node.modified = self.now()

    def set_taglink(self, repository: str, name: str, target: str, tag: str) -> None:
        """Make or retarget a taglink to a tag of the repository `target`."""
        self.put_node(repository, name, Link(f"../{target}/{TAG_PREFIX}{tag}", self.now()))

    def flists(self) -> list[str]:
        """Return `REPO/F.flist` of every regular flist."""
        with self.lock:
            return [
                f"{repository}/{name}"
                for repository, found in sorted(self.repositories.items())
                for name, node in sorted(found.nodes.items())
                if isinstance(node, File) and name.endswith(FLIST)
            ]

    def boot_sources(self) -> dict[str, Path]:
        """Return, for every path a node can ask for, the directory it was packed from.

        Paths are `REPO/F.flist` of flists and links and `REPO/tags/T/F.flist`.
        """
        with self.lock:
            by_data = {
                file.md5: self.sources[path]
                for path in self.sources
                if (file := self.tree.file(*path.split("/", 1))) is not None
            }
            found = {}
            for repository, held in self.repositories.items():
                for name, node in held.nodes.items():
                    places = [(repository, name, f"{repository}/{name}")]
                    if isinstance(node, Tag):
                        tag = f"{repository}/tags/{name.removeprefix(TAG_PREFIX)}"
                        places = [(f"{repository}/{name}", n, f"{tag}/{n}") for n in node.links]
                    for directory, entry, path in places:
                        file = self.tree.file(directory, entry)
                        if file is not None and file.md5 in by_data:
                            found[path] = by_data[file.md5]
            return found

    # -- kernels -----------------------------------------------------------------------------

    def add_kernel(self, name: str, data: bytes, modified: float | None = None) -> None:
        """Publish a kernel, or republish one under its name."""
        with self.lock:
            self.kernel_links.pop(name, None)
            self.kernels[name] = File(data, self.now() if modified is None else modified)

    def delete_kernel(self, name: str) -> None:
        """Remove a kernel; links to it dangle."""
        with self.lock:
            del self.kernels[name]

    def set_net_link(self, mode: str, kernel: str | File) -> None:
        """Point a run mode at a kernel, or give it a file of its own."""
        with self.lock:
            self.net_links[mode] = kernel

    def set_kernel_link(self, name: str, target: str) -> None:
        """Make or retarget a link at the top, removing a kernel of its name (api_symlink)."""
        with self.lock:
            self.kernels.pop(name, None)
            self.kernel_links[name] = target

    # -- chunks ------------------------------------------------------------------------------

    def add_chunks(self, chunks: Mapping[bytes, bytes], namespace: str = "default") -> None:
        """Store payloads under their keys."""
        with self.lock:
            target = self.store.namespaces[namespace]
            now = int(self.now())
            target.set_many([(key, payload, now) for key, payload in chunks.items()])
            self.store.announce("SET", target)

    def corrupt_chunk(self, key: bytes) -> None:
        """Flip a bit in the middle of a stored payload; its key stays."""
        with self.lock:
            payload = bytearray(self.store.default.payload(key) or b"")
            payload[len(payload) // 2] ^= 1
            self.store.default.replace_payload(key, bytes(payload))

    def drop_chunk(self, key: bytes) -> None:
        """Delete a chunk, as the master's operator would."""
        self.store.delete(key)

    def chunk_keys(self, repository: str, name: str) -> set[bytes]:
        """Return the keys that a published flist names."""
        with self.lock:
            file = self.tree.file(repository, name)
        return set() if file is None else Flist.decode(file.data).chunk_keys()

    # -- a master that went wrong ------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Remember everything as it is now."""
        with self.lock:
            return Snapshot(
                copy.deepcopy(self.repositories),
                dict(self.kernels),
                dict(self.net_links),
                dict(self.kernel_links),
                copy.deepcopy(self.store.namespaces),
            )

    def rewind(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, as a master restored from a backup does."""
        with self.lock:
            self.repositories.clear()
            self.repositories.update(copy.deepcopy(snapshot.repositories))
            self.kernels = dict(snapshot.kernels)
            self.net_links = dict(snapshot.net_links)
            self.kernel_links = dict(snapshot.kernel_links)
            self.store.namespaces.clear()
            self.store.namespaces.update(copy.deepcopy(snapshot.namespaces))

    def change_identity(self, entries: int = 100) -> None:
        """Become another master: a 0-db of the same size class with nothing in common."""
        with self.lock:
            default = self.store.default
            default.clear()
            now = int(self.now())
            default.set_many(
                [(os.urandom(16), os.urandom(64), now) for _ in range(entries)],
            )

    def clear_repositories(self) -> None:
        """List nothing, as a hub with a lost disk does."""
        with self.lock:
            self.repositories.clear()


class ModelKernels:
    """The bootstrap server's view of a model."""

    def __init__(self, model: UpstreamModel) -> None:
        self._model = model

    def kernels(self) -> list[tuple[str, float]]:
        """Return name and modification time of each kernel."""
        return [(name, file.modified) for name, file in self._model.kernels.items()]

    def content(self, path: str) -> Content | None:
        """Return a kernel, or what a link leads to."""
        file: File | None
        if path.startswith("net/"):
            linked = self._model.net_links.get(path[4:].removesuffix(".efi"))
            file = self._model.kernels.get(linked) if isinstance(linked, str) else linked
        else:
            file = self._model.kernels.get(self._model.kernel_links.get(path, path))
        return None if file is None else Content(file.modified, file.data)

    def holds(self, path: str) -> bool:
        """Return whether there is such a kernel, or a net link that leads to one."""
        return self.content(path) is not None
