"""The resources a stack declares about its mirror host; each is thin over a provider.

Their arguments are the inputs of the provider's model, which explains them. `host` is everywhere
the mapping of `connection.HostConnection` (dockerHost, sshKeyPath, knownHostsPath, helperImage). A
changed host is an update in place, never a replacement: the same mirror reached in another way.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias, TypedDict, Unpack

import pulumi
from pulumi.dynamic import Resource
from pydantic.alias_generators import to_camel

from sync.contract.layout import Job
from sync.contract.status import Ready
from sync.providers.agent_bundle import AgentBundleProvider, bundle_path
from sync.providers.base import Bag, InputsT, OutputsT, Provider
from sync.providers.host.directories import HostDirectoriesProvider
from sync.providers.host.files import HostFilesProvider
from sync.providers.jobs.outputs import RECORD
from sync.providers.jobs.provider import JobProvider
from sync.providers.mode_guard import ModeGuardProvider
from sync.providers.preflight.provider import PreflightProvider
from sync.providers.stack_secrets import KINDS, StackSecretProvider

Options: TypeAlias = pulumi.ResourceOptions | None


class _Declared(Resource):
    """A resource whose outputs are those that its provider's model names."""

    def __init__(
        self,
        provider: Provider[InputsT, OutputsT],
        name: str,
        opts: Options,
        inputs: Mapping[str, object],
        hidden: str = "",
    ) -> None:
        """Declare it; hidden: the output that is a secret."""
        outputs = [field.alias or "" for field in provider.outputs_type.model_fields.values()]
        props = dict.fromkeys(outputs) | {to_camel(key): value for key, value in inputs.items()}
        if hidden:
            marked = pulumi.ResourceOptions(additional_secret_outputs=[hidden])
            opts = pulumi.ResourceOptions.merge(opts, marked)
        super().__init__(provider, name, props, opts)


class _ModeArgs(TypedDict):
    stack: str
    mode: str
    confirmation: int


class ModeGuard(_Declared, module="gridhub", name="ModeGuard"):
    """A stack's mode as it is recorded; `history`: the modes it had, oldest first.

    stack: the stack's name; the output is the one that it had when this was created.
    confirmation: a counter; raised by one it allows one step back to `mirror`.
    """

    stack: pulumi.Output[str]
    mode: pulumi.Output[str]
    history: pulumi.Output[list[str]]

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_ModeArgs]) -> None:
        super().__init__(ModeGuardProvider(), name, opts, inputs)


class StackSecret(_Declared, module="gridhub", name="StackSecret"):
    """One generated secret; kept over every update until its rotation counter changes.

    kind: one of stack_secrets.KINDS. value: the secret, marked so in the state.
    """

    value: pulumi.Output[str]

    def __init__(
        self, name: str, stack: pulumi.Input[str], kind: str, rotation: int, opts: Options
    ) -> None:
        inputs = {"stack": stack, "kind": kind, "rotation": rotation}
        super().__init__(StackSecretProvider(), name, opts, inputs, hidden="value")


class StackSecrets(pulumi.ComponentResource):
    """Every secret of a stack, one resource each, so that a rotation touches only its own.

    rotation: each of stack_secrets.KINDS to a counter; raise one to have that secret generated
    anew. All five attributes are secret outputs.
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
        rotation: Mapping[str, int],
        opts: Options = None,
    ) -> None:
        super().__init__("gridhub:index:StackSecrets", name, None, opts)
        ours = pulumi.ResourceOptions(parent=self)
        values = {
            kind: StackSecret(f"{name}-{kind}", stack, kind, rotation[kind], ours).value
            for kind in KINDS
        }
        self.zdb_admin_password = values["zdbAdmin"]
        self.hub_private_key = values["hubKey"]
        self.hub_seed = values["hubSeed"]
        self.bootstrap_api_token = values["bootstrapToken"]
        self.guest_token = values["guestToken"]
        self.register_outputs({})


class _HostArgs(TypedDict):
    host: pulumi.Input[Mapping[str, pulumi.Input[str]]]
    root: str


class _DirectoriesArgs(_HostArgs):
    directories: Sequence[Bag]
    must_be_mount: bool
    purge: bool


class HostDirectories(_Declared, module="gridhub", name="HostDirectories"):
    """The data root and its directories, each with owner and mode.

    directories: [{path (relative to root), uid, mode}], parents first; gid equals uid.
    must_be_mount: make nothing where the root is no mount, now or at a later repair.
    purge: on delete, also remove them with all they hold; otherwise delete keeps everything.
    """

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_DirectoriesArgs]) -> None:
        super().__init__(HostDirectoriesProvider(), name, opts, inputs)


class _FilesArgs(_HostArgs):
    files: Sequence[Bag]


class HostFiles(_Declared, module="gridhub", name="HostFiles"):
    """Small files on the host (configuration, secrets), written atomically.

    files: [{path (relative to root), uid, mode, content (text, may be secret)}]. The outputs
    name the files and their digests (secret), never what they hold; `drift` says what changed on
    the host.
    """

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_FilesArgs]) -> None:
        super().__init__(HostFilesProvider(), name, opts, inputs, hidden="digests")


class _BundleArgs(_HostArgs):
    digest: str


class AgentBundle(_Declared, module="gridhub", name="AgentBundle"):
    """The agent's directory on the host: our sources and the locked wheels, named by `digest`.

    digest: of `agent_bundle.agent_digest()`.
    """

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_BundleArgs]) -> None:
        path = bundle_path(inputs["root"], inputs["digest"])
        super().__init__(AgentBundleProvider(), name, opts, {**inputs, "path": path})


class _JobArgs(_HostArgs):
    spec: pulumi.Input[Bag]
    agent_version: str
    container_name: pulumi.Input[str]
    ready: Ready
    ready_timeout_seconds: float
    purge: bool


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

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_JobArgs]) -> None:
        super().__init__(JobProvider(), name, opts, {**inputs, "job": self.job})
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


class _PreflightArgs(_HostArgs):
    limits: Bag
    ports: Sequence[Bag]
    addresses: Sequence[str]
    public_addresses: Sequence[str]
    names: Sequence[Bag]
    upstream: Sequence[Bag]
    own_containers: pulumi.Input[Sequence[str]]
    root_is_mount: bool
    dns_managed: bool
    ignore: Sequence[str]


class Preflight(_Declared, module="gridhub", name="Preflight"):
    """The check of the host before the first change; create fails with all findings at once.

    addresses: those the stack binds. public_addresses: those its DNS records have, which the host
    itself may lack behind NAT. upstream: of each name one has to be reachable from the host.
    own_containers: names of this stack's containers, which may hold the ports already.
    root_is_mount: the data root must be a mount. dns_managed: the stack sets its own records, so
    a name that points elsewhere is a warning. ignore: checks whose errors count as warnings.
    """

    def __init__(self, name: str, opts: Options = None, **inputs: Unpack[_PreflightArgs]) -> None:
        super().__init__(PreflightProvider(), name, opts, inputs)
