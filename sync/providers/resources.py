"""The resources a stack declares about its mirror host; each is thin over a provider.

`host` is everywhere the mapping of `connection.HostConnection` (dockerHost, sshKeyPath,
knownHostsPath, helperImage). A changed host is an update in place, never a replacement: the
same mirror reached in another way.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

import pulumi
from pulumi.dynamic import Resource

from sync.contract.layout import Job
from sync.providers.agent_bundle import AgentBundleProvider, bundle_path
from sync.providers.base import Bag, InputsT, OutputsT, Provider
from sync.providers.host.directories import HostDirectoriesProvider
from sync.providers.host.files import HostFilesProvider
from sync.providers.jobs.outputs import RECORD
from sync.providers.jobs.provider import JobProvider, Ready
from sync.providers.mode_guard import ModeGuardProvider
from sync.providers.preflight.provider import PreflightProvider
from sync.providers.stack_secrets import KINDS, StackSecretProvider

Host: TypeAlias = pulumi.Input[Mapping[str, pulumi.Input[str]]]
ResourceOptions: TypeAlias = pulumi.ResourceOptions | None


class _Declared(Resource):
    """A resource whose outputs are those that its provider's model names."""

    def __init__(
        self,
        provider: Provider[InputsT, OutputsT],
        name: str,
        inputs: Mapping[str, object],
        opts: ResourceOptions,
        hidden: str = "",
    ) -> None:
        """Declare it; hidden: the output that is a secret."""
        outputs = [field.alias or "" for field in provider.outputs_type.model_fields.values()]
        if hidden:
            marked = pulumi.ResourceOptions(additional_secret_outputs=[hidden])
            opts = pulumi.ResourceOptions.merge(opts, marked)
        super().__init__(provider, name, {**dict.fromkeys(outputs), **inputs}, opts)


class HostDirectories(_Declared, module="gridhub", name="HostDirectories"):
    """The data root and its directories, each with owner and mode.

    directories: [{path (relative to root), uid, mode}], parents first; gid equals uid.
    must_be_mount: make nothing where the root is no mount, now or at a later repair.
    purge: on delete, also remove them with all they hold; otherwise delete keeps everything.
    """

    root: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        host: Host,
        root: str,
        directories: Sequence[Bag],
        must_be_mount: bool = False,
        purge: bool = False,
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {
            "host": host,
            "root": root,
            "directories": [dict(directory) for directory in directories],
            "mustBeMount": must_be_mount,
            "purge": purge,
        }
        super().__init__(HostDirectoriesProvider(), name, inputs, opts)


class ModeGuard(_Declared, module="gridhub", name="ModeGuard"):
    """A stack's mode as it is recorded; `history`: the modes it had, oldest first.

    stack: the stack's name; the output is the one that it had when this was created.
    confirmation: a counter; raised by one it allows one step back to `mirror`.
    """

    stack: pulumi.Output[str]
    mode: pulumi.Output[str]
    history: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        stack: str,
        mode: str,
        confirmation: int = 0,
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {"stack": stack, "mode": mode, "confirmation": confirmation}
        super().__init__(ModeGuardProvider(), name, inputs, opts)


class StackSecret(_Declared, module="gridhub", name="StackSecret"):
    """One generated secret; kept over every update until its rotation counter changes.

    kind: one of stack_secrets.KINDS. value: the secret, marked so in the state.
    """

    value: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        stack: pulumi.Input[str],
        kind: str,
        rotation: int = 0,
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {"stack": stack, "kind": kind, "rotation": rotation}
        super().__init__(StackSecretProvider(), name, inputs, opts, hidden="value")


class StackSecrets(pulumi.ComponentResource):
    """Every secret of a stack, one resource each, so that a rotation touches only its own.

    rotation: {zdbAdmin, hubKey, hubSeed, bootstrapToken, guestToken} to a counter; raise one to
    have that secret generated anew. All five attributes are secret outputs.
    """

    zdb_admin_password: pulumi.Output[str]
    hub_private_key: pulumi.Output[str]
    hub_seed: pulumi.Output[str]
    bootstrap_api_token: pulumi.Output[str]
    guest_token: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        stack: pulumi.Input[str],
        rotation: Mapping[str, int] | None = None,
        opts: ResourceOptions = None,
    ) -> None:
        """Raise ValueError when rotation names a secret that does not exist."""
        super().__init__("gridhub:index:StackSecrets", name, None, opts)
        counters = rotation or {}
        if unknown := sorted(set(counters) - set(KINDS)):
            raise ValueError(f"rotation: unknown secrets {unknown}; known are {sorted(KINDS)}")
        values = {
            kind: StackSecret(
                f"{name}-{kind}",
                stack=stack,
                kind=kind,
                rotation=counters.get(kind, 0),
                opts=pulumi.ResourceOptions(parent=self),
            ).value
            for kind in KINDS
        }
        self.zdb_admin_password = values["zdbAdmin"]
        self.hub_private_key = values["hubKey"]
        self.hub_seed = values["hubSeed"]
        self.bootstrap_api_token = values["bootstrapToken"]
        self.guest_token = values["guestToken"]
        self.register_outputs({})


class HostFiles(_Declared, module="gridhub", name="HostFiles"):
    """Small files on the host (configuration, secrets), written atomically.

    files: [{path (relative to root), uid, mode, content (text, may be secret)}]. The outputs
    name the files and their digests (secret), never what they hold; `drift` says what changed on
    the host.
    """

    drift: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        host: Host,
        root: str,
        files: Sequence[Bag],
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {"host": host, "root": root, "files": [dict(file) for file in files]}
        super().__init__(HostFilesProvider(), name, inputs, opts, hidden="digests")


class AgentBundle(_Declared, module="gridhub", name="AgentBundle"):
    """The agent's directory on the host: our sources and the locked wheels, named by `digest`.

    digest: of `agent_bundle.agent_digest()`. path: absolute, on the host, known in a preview.
    """

    path: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        host: Host,
        root: str,
        digest: str,
        opts: ResourceOptions = None,
    ) -> None:
        path = bundle_path(root, digest)
        inputs = {"host": host, "root": root, "digest": digest, "path": path}
        super().__init__(AgentBundleProvider(), name, inputs, opts)


class _JobSync(_Declared, module="gridhub", name="JobSync"):
    """A job, followed by its container on the host; see JobProvider for the operations.

    The attributes are outputs: see JobOutputs. record: the whole status record, which no preview
    shows.
    """

    job: ClassVar[Job]
    healthy: pulumi.Output[bool]
    reason: pulumi.Output[str]
    summary: pulumi.Output[str]
    refused: pulumi.Output[dict[str, object]]
    broken: pulumi.Output[dict[str, object]]

    def __init__(  # noqa: PLR0913  the inputs of a job
        self,
        name: str,
        *,
        host: Host,
        root: str,
        spec: pulumi.Input[Bag],
        agent_version: str,
        container_name: pulumi.Input[str],
        ready: Ready = "started",
        ready_timeout_seconds: float = 120,
        purge: bool = False,
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {
            "host": host,
            "root": root,
            "job": self.job,
            "spec": spec,
            "agentVersion": agent_version,
            "containerName": container_name,
            "ready": ready,
            "readyTimeoutSeconds": ready_timeout_seconds,
            "purge": purge,
        }
        super().__init__(JobProvider(), name, inputs, opts)
        self.record: pulumi.Output[dict[str, object] | None] = getattr(self, RECORD)


class UsersSync(_JobSync, module="gridhub", name="UsersSync"):
    """Repositories, flists, links and tags, followed by the host's users job."""

    job: ClassVar[Job] = "users"


class KernelsSync(_JobSync, module="gridhub", name="KernelsSync"):
    """Kernels and net links, followed by the host's kernels job."""

    job: ClassVar[Job] = "kernels"


class FlistsSync(_JobSync, module="gridhub", name="FlistsSync"):
    """Every chunk of the master's 0-db namespace, followed by the host's flists job."""

    job: ClassVar[Job] = "flists"


class Preflight(_Declared, module="gridhub", name="Preflight"):
    """The check of the host before the first change; create fails with all findings at once.

    limits: {cores, memoryBytes, freeBytes, dockerVersion}. ports: [{address, port}] to be bound
    on the host. addresses: those the stack binds. public_addresses: those its DNS records have,
    which the host itself may lack behind NAT. names: [{name, addresses, bootMedia}] that should
    resolve to them; bootMedia: asked over IPv4 only. upstream: [{name, host, port, namespace}], of
    each name one has to be reachable from the host.
    own_containers: names of this stack's containers, which may hold the ports already.
    root_is_mount: the data root must be a mount. dns_managed: the stack sets its own records, so
    a name that points elsewhere is a warning. ignore: checks whose errors count as warnings.
    """

    findings: pulumi.Output[list[str]]

    def __init__(  # noqa: PLR0913  one argument per thing that is checked
        self,
        name: str,
        *,
        host: Host,
        root: str,
        limits: Bag,
        ports: Sequence[Bag] = (),
        addresses: Sequence[str] = (),
        public_addresses: Sequence[str] = (),
        names: Sequence[Bag] = (),
        upstream: Sequence[Bag] = (),
        own_containers: pulumi.Input[Sequence[str]] = (),
        root_is_mount: bool = False,
        dns_managed: bool = False,
        ignore: Sequence[str] = (),
        opts: ResourceOptions = None,
    ) -> None:
        inputs = {
            "host": host,
            "root": root,
            "limits": dict(limits),
            "ports": [dict(port) for port in ports],
            "addresses": list(addresses),
            "publicAddresses": list(public_addresses),
            "names": [dict(entry) for entry in names],
            "upstream": [dict(entry) for entry in upstream],
            "ownContainers": own_containers,
            "rootIsMount": root_is_mount,
            "dnsManaged": dns_managed,
            "ignore": list(ignore),
        }
        super().__init__(PreflightProvider(), name, inputs, opts)
