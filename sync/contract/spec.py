"""The spec of a job: what the stack wants, written to the host as canonical JSON.

A job reads its spec at start and again whenever the file changes; the digest of the canonical
form stands in the status record, so that the stack sees which spec is in effect.

What an operator may set of a job (its `Options`) is declared here, once: the settings of a stack
file inherit it, and so does the spec, which adds what derives from the rest of the settings.
"""

import hashlib
import json
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from sync.contract.addresses import Host, HttpUrl, Port, bracketed
from sync.contract.sections import Count, Days, Fraction, PlainName, Positive, Seconds, Section

MOST_SOURCES: Final = 8
# The memory (MiB) that a job's container has unless set: what a spec without it stands for.
USERS_MEMORY_MB: Final = 512
KERNELS_MEMORY_MB: Final = 256
FLISTS_MEMORY_MB: Final = 1024
# What a spec of an earlier release named with one value, and where that stands now.
_ONCE_SINGLE: Final = {"source": "sources", "source_zdb": "sources_zdb"}


class ZdbEndpoint(Section):
    """A 0-db namespace; `str()` names it as people do: HOST:PORT/NAMESPACE."""

    host: Host = Field(description="Name or address (IPv6 without brackets).")
    port: Port = Field(9900, description="TCP port.")
    namespace: PlainName = Field("default", description="Namespace.")

    def __str__(self) -> str:
        return f"{self.address}/{self.namespace}"

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{bracketed(self.host)}:{self.port}"


_AnyItem = TypeVar("_AnyItem")


def _in_order(values: list[_AnyItem]) -> list[_AnyItem]:
    if not values:
        raise ValueError("names none; name at least one, or remove the key")
    if len(values) > MOST_SOURCES:
        raise ValueError(f"names more than {MOST_SOURCES}; keep those that are needed")
    if any(value in values[:number] for number, value in enumerate(values)):
        raise ValueError("names one of them twice; remove it")
    return values


# One master's names of one service, the preferred one first.
Urls: TypeAlias = Annotated[list[HttpUrl], AfterValidator(_in_order)]
Endpoints: TypeAlias = Annotated[list[ZdbEndpoint], AfterValidator(_in_order)]


class Selection(Section):
    """Shell patterns; a name is taken when one of `include` and none of `exclude` matches."""

    include: list[str] = Field(["*"], description="Patterns of what is taken.")
    exclude: list[str] = Field([], description="Patterns of what is left out of it.")

    def takes(self, name: str) -> bool:
        """Return whether a name of the master is mirrored."""
        included = any(fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)


class Schedule(Section):
    """When passes start."""

    interval_seconds: Seconds = Field(300.0, description="Time between the starts of two passes.")
    jitter: Fraction = Field(0.1, description="Part of the interval added at random.")


class Backoff(Section):
    """How long to wait after a failure: doubled from first to longest, with jitter."""

    first_seconds: Seconds = Field(1.0, description="After the first failure.")
    longest_seconds: Seconds = Field(300.0, description="Never longer than this.")


_CONNECTIONS: Final = "Requests at the same time."


class HttpLimits(Section):
    """What a job may do to a master's HTTP service."""

    connections: int = Field(16, ge=1, le=64, description=_CONNECTIONS)
    requests_per_second: Seconds | None = Field(None, description="At most; unset: no limit.")
    connect_timeout_seconds: Seconds = Field(10.0, description="To connect.")
    read_timeout_seconds: Seconds = Field(30.0, description="Without a byte.")


class KernelsHttpLimits(HttpLimits):
    """What a job may do to a master's HTTP service; kernels are few and large."""

    connections: int = Field(8, ge=1, le=64, description=_CONNECTIONS)


class _Options(Section):
    paused: bool = Field(default=False, description="Hold the job; it keeps reporting.")
    backoff: Backoff = Backoff()
    bandwidth_bytes_per_second: Positive | None = Field(
        None, description="At most, from the master; unset: no limit."
    )
    removal_limit: Fraction = Field(
        0.1, description="Part of the mirror that may vanish at once before the job pauses."
    )
    removal_floor_items: Count = Field(
        10, description="So many may always vanish, whatever `removalLimit` says."
    )
    removal_confirmation: Count = Field(
        0, description="Raise by one to let a removal that paused the job happen, once."
    )
    free_space_floor_bytes: Count = Field(
        1 << 30, description="Free space on the data root below which the job pauses."
    )


class UsersOptions(_Options):
    """The users job: repositories, flists, links and tags."""

    allowed_backends: list[ZdbEndpoint] = Field(
        [], description="Further 0-dbs that flists may take their chunks from."
    )
    # Its chunks are out of reach of the flists job's deletes.
    foreign_namespace: PlainName = Field(
        "foreign", description="Local namespace for chunks of `allowedBackends`."
    )
    repositories: Selection = Field(
        Selection(),
        description="Patterns on repository names. A tag that leads to a flist of a repository "
        "that is left out is not shown.",
    )
    flists: Selection = Field(
        Selection(),
        description="Patterns on `REPOSITORY/NAME.flist`. A tag that leads to one that is left "
        "out is not shown.",
    )
    official: list[PlainName] = Field(
        [
            "tf-zos",
            "tf-bootable",
            "tf-official-apps",
            "tf-official-vms",
            "tf-autobuilder",
            "tf-solutions",
            "tf-dockers",
            "tf-elevated",
        ],
        description="Repositories that are synced first, in this order.",
    )
    schedule: Schedule = Schedule()
    http: HttpLimits = HttpLimits()
    retention_days: Days = Field(
        0.0, description="How long flists that the master deleted stay served."
    )
    broken_flists: Literal["withhold", "publish"] = Field(
        "withhold", description="What to do with a flist whose chunks no allowed 0-db has."
    )
    chunk_fetch_limit: int = Field(
        2000, ge=1, le=100_000, description="Chunks in flight ahead of the flists job."
    )
    max_flist_bytes: Positive = Field(1 << 30, description="A larger flist is refused.")


class KernelsOptions(_Options):
    """The kernels job: kernels, the net link of each run mode, links at the top.

    A kernel that a link names is always taken and never removed.
    """

    run_modes: list[PlainName] = Field(
        ["prod", "test", "dev", "qa"], description="Run modes whose net link is followed."
    )
    net_links: dict[PlainName, PlainName] = Field(
        {}, description="Run mode to kernel file: set by hand instead of asking the master."
    )
    links: list[PlainName] = Field(
        [],
        description="Links at the top of the master's kernel folder (`/kernel/NAME`, made with "
        "upstream's `/api/symlink`), which no listing names; each is made here as a link to the "
        "same kernel.",
    )
    kernels: Selection = Field(Selection(), description="Patterns on kernel file names.")
    newest: Positive | None = Field(None, description="Keep only so many; unset: all.")
    max_age_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Leave out older ones, by the master's clock; unset: none."
    )
    schedule: Schedule = Schedule()
    http: KernelsHttpLimits = KernelsHttpLimits()
    retention_days: Days = Field(0.0, description="How long a deleted kernel is kept aside.")
    max_kernel_bytes: Positive = Field(2 << 30, description="A larger kernel is refused.")


class FlistsOptions(_Options):
    """The flists job: every chunk of the master's namespace."""

    connections: int = Field(8, ge=1, le=64, description="Connections to the master's 0-db.")
    batches: int = Field(4, ge=2, le=64, description="Batches in flight per connection.")
    batch_keys: int = Field(500, ge=1, le=1023, description="Chunks of a batch, at most.")
    batch_bytes: int = Field(1 << 20, ge=1, le=64 << 20, description="Size of a batch, about.")
    # 1 lists serially; more start at keys spread over the index.
    scanners: int = Field(8, ge=1, le=64, description="Parallel listings of the first snapshot.")
    # The fall-back when WAIT gives no sign.
    poll_seconds: Seconds = Field(5.0, description="Listing interval when nothing is announced.")
    delete_check_seconds: Seconds = Field(60.0, description="Time between looks for deletions.")
    deletes_without_users: bool = Field(
        default=False,
        description="Apply the master's deletions although no users job runs here to say which "
        "chunks are still needed.",
    )
    io_timeout_seconds: Seconds = Field(30.0, description="Without a byte from a 0-db.")


class _Spec(Section):
    version: Literal[1] = 1
    stack: str

    @model_validator(mode="before")
    @classmethod
    def _take_single_names(cls, data: Any) -> Any:
        """Read a spec of an earlier release: it is on the host until `up` has written the new."""
        read = dict(data) if isinstance(data, dict) else {}
        for old, new in _ONCE_SINGLE.items():
            if old in read and new in cls.model_fields and new not in read:
                read[new] = [read.pop(old)]
        return read or data


class _HttpSpec(_Spec):
    sources: Urls

    @property
    def source(self) -> str:
        """The preferred name of the master's service."""
        return self.sources[0]


class UsersSpec(UsersOptions, _HttpSpec):
    """The users job's options, and what derives from the rest of the settings.

    memory_limit_mb: the memory of the job's container in MiB, see sync.agent.budget.

    sources: base URLs of the master's hub, the preferred one first: names of one and the same
    master; the next is used while the one before it is dead. sources_zdb: the master's chunks,
    likewise. local_zdb: this mirror's 0-db, reached by the agent as admin with the password in
    /secrets/zdb-admin.
    publish_backend: what a published flist's metadata.backend is rewritten to; null keeps the
    master's.
    local_zdb_memory_bytes: what the local 0-db may take; the job pauses before it is filled
    (see sync.contract.zdb_memory). null: not limited.
    """

    job: Literal["users"] = "users"
    memory_limit_mb: Positive = USERS_MEMORY_MB
    sources_zdb: Endpoints
    local_zdb: ZdbEndpoint
    local_zdb_memory_bytes: Positive | None = None
    publish_backend: ZdbEndpoint | None = None

    @property
    def source_zdb(self) -> ZdbEndpoint:
        """The preferred name of the master's 0-db."""
        return self.sources_zdb[0]


class KernelsSpec(KernelsOptions, _HttpSpec):
    """The kernels job's options, and the master. sources, memory_limit_mb: as in UsersSpec."""

    job: Literal["kernels"] = "kernels"
    memory_limit_mb: Positive = KERNELS_MEMORY_MB


class FlistsSpec(FlistsOptions, _Spec):
    """The flists job's options, and what derives from the rest of the settings.

    sources: the master's namespace, read without a password, by its names as in UsersSpec; the
    first is the one in use (see `at`). The other fields: as in UsersSpec.
    """

    job: Literal["flists"] = "flists"
    memory_limit_mb: Positive = FLISTS_MEMORY_MB
    sources: Endpoints
    local_zdb: ZdbEndpoint
    local_zdb_memory_bytes: Positive | None = None

    @property
    def source(self) -> ZdbEndpoint:
        """The name of the master's namespace that is in use."""
        return self.sources[0]

    def at(self, endpoint: ZdbEndpoint) -> Self:
        """Return the spec of one session: `endpoint` is in use, the other names follow."""
        others = [other for other in self.sources if other != endpoint]
        return self.model_copy(update={"sources": [endpoint, *others]})


JobSpec: TypeAlias = UsersSpec | KernelsSpec | FlistsSpec
_ADAPTER: Final[TypeAdapter[JobSpec]] = TypeAdapter(Annotated[JobSpec, Field(discriminator="job")])


def canonical(spec: JobSpec) -> bytes:
    """Serialize: UTF-8 JSON, sorted keys, no spaces, one newline: equal specs, equal bytes."""
    data = spec.model_dump(mode="json")
    return (json.dumps(data, sort_keys=True, separators=(",", ":")) + "\n").encode()


def digest(spec: JobSpec) -> str:
    """SHA-256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(spec)).hexdigest()


def parse(data: object) -> JobSpec:
    """Read a spec: the text of a spec.json, or the mapping that the stack's inputs hold.

    Raises pydantic.ValidationError, which names every wrong key.
    """
    if isinstance(data, bytes | str):
        return _ADAPTER.validate_json(data)
    return _ADAPTER.validate_python(data)
