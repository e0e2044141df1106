"""Configuration and secret files on the host, written atomically, never repeated in outputs."""

import base64
import hashlib

from pydantic import Field

from sync.providers.base import Drift, HostInputs, HostProvider
from sync.providers.host import facts
from sync.providers.host.facts import OwnedPath


class File(OwnedPath):
    """A small file below the data root; content is text, and may be secret."""

    content: str


class FilesInputs(HostInputs):
    """See resources.HostFiles. The state does not have the files, as they may be secret."""

    files: tuple[File, ...] = Field(default=(), exclude=True)

    @property
    def first(self) -> str:
        """The first path."""
        return min(file.path for file in self.files)

    @property
    def written(self) -> tuple[OwnedPath, ...]:
        """The files without their contents."""
        return tuple(OwnedPath(path=f.path, uid=f.uid, mode=f.mode) for f in self.files)

    @property
    def digests(self) -> dict[str, str]:
        """Digest (hex) of each content by the file's path."""
        return {f.path: hashlib.sha256(f.content.encode()).hexdigest() for f in self.files}


class FilesOutputs(Drift):
    """written: paths, owners and modes. digests: of the contents by path, secret."""

    written: tuple[OwnedPath, ...] = ()
    digests: dict[str, str] = Field(default_factory=dict)


class HostFilesProvider(HostProvider[FilesInputs, FilesOutputs]):
    """Writes small files; outputs hold paths, owners and (secret) digests, never contents."""

    inputs_type = FilesInputs
    outputs_type = FilesOutputs
    id_form = "{0.root}#{0.first}"  # one resource, one set of files
    refreshes_inputs = False  # the state does not have them

    def apply(self, inputs: FilesInputs, before: FilesOutputs | None) -> FilesOutputs:
        """Write every file, and remove those that are no longer listed."""
        files = [
            {
                **file.model_dump(exclude={"content"}),
                "content": base64.b64encode(file.content.encode()).decode(),
            }
            for file in inputs.files
        ]
        inputs.data_root.as_root("write_files", files=files)
        former = [file.path for file in before.written] if before else []
        self._remove(inputs, [path for path in former if path not in inputs.digests])
        return FilesOutputs(written=inputs.written, digests=inputs.digests)

    def observe(self, inputs: FilesInputs, before: FilesOutputs) -> FilesOutputs | None:
        """See which files are missing, changed or owned otherwise."""
        seen = facts.gather(inputs.data_root, [file.path for file in before.written]).paths
        if not any(file.path in seen for file in before.written):
            return None
        drift = facts.drift(before.written, seen, before.digests)
        return before.model_copy(update={"drift": drift})

    def differ(self, before: FilesOutputs, olds: FilesInputs, news: FilesInputs) -> bool:
        """Compare with what was written: the state has no contents."""
        return (
            (olds.host, olds.root) != (news.host, news.root)
            or before.digests != news.digests
            or set(before.written) != set(news.written)
        )

    def remove(self, inputs: FilesInputs, before: FilesOutputs) -> None:
        """Remove the files."""
        self._remove(inputs, [file.path for file in before.written])

    def _remove(self, inputs: FilesInputs, paths: list[str]) -> None:
        if paths:
            inputs.data_root.as_root("remove_files", paths=paths)
