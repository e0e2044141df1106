"""The data root and its directories on the host."""

from sync.providers.base import Drift, HostInputs, HostProvider
from sync.providers.host import facts
from sync.providers.host.commands import Command
from sync.providers.host.connection import HostError
from sync.providers.host.facts import OwnedPath


class DirectoriesInputs(HostInputs):
    """See resources.HostDirectories."""

    directories: tuple[OwnedPath, ...]
    must_be_mount: bool = False
    purge: bool = False

    @property
    def paths(self) -> list[str]:
        """Path of each directory, parents first."""
        return [entry.path for entry in self.directories]


class HostDirectoriesProvider(HostProvider[DirectoriesInputs, Drift]):
    """Makes and owns directories; adopts those that exist, with their contents.

    Directories no longer listed stay.
    """

    inputs_type = DirectoriesInputs
    outputs_type = Drift
    id_form = "{0.root}#directories"

    def apply(self, inputs: DirectoriesInputs, _before: Drift | None) -> Drift:
        """Make what is missing or owned wrongly."""
        # Storage that is not mounted must not be replaced by directories on the system's disk.
        mountpoint = Command(["mountpoint", "-q", inputs.root])
        if inputs.must_be_mount and inputs.data_root.on_host().run(mountpoint).status != 0:
            raise HostError(
                f"{inputs.root} is no mount, as preflight.dataRootIsMount wants it: nothing was "
                "made there; mount the storage (see /etc/fstab)"
            )
        listed = [entry.model_dump() for entry in inputs.directories]
        inputs.data_root.as_root("make_directories", create=True, directories=listed)
        return Drift()

    def observe(self, inputs: DirectoriesInputs, _before: Drift) -> Drift | None:
        """See which directories are missing or owned otherwise."""
        seen = facts.gather(inputs.data_root, inputs.paths).paths
        if not any(path in seen for path in inputs.paths):
            return None
        return Drift(drift=facts.drift(inputs.directories, seen))

    def remove(self, inputs: DirectoriesInputs, _before: Drift) -> None:
        """Keep everything, unless the stack says purge."""
        if not inputs.purge:
            return
        inputs.data_root.as_root("purge", paths=inputs.paths)
        # The root itself, where it is empty, no mount point, and ours to remove.
        inputs.data_root.on_host().run(Command(["rmdir", inputs.root]))
