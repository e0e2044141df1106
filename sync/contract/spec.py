"""The spec of a job: what the stack wants, written to the host as canonical JSON.

A job reads its spec at start and again whenever the file changes; the digest of the canonical
form stands in the status record, so that the stack sees which spec is in effect.
"""

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from typing_extensions import override

SPEC_VERSION: Final = 1
MOST_SOURCES: Final = 8
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
BytesPerSecond: TypeAlias = Annotated[int, Field(ge=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ZdbEndpoint(_Spec):
    """A 0-db namespace. host is a name or an address (IPv6 without brackets)."""

    host: str
    port: Port = 9900
    namespace: str = "default"

    @override
    def __str__(self) -> str:
        """Name it as people do: HOST:PORT/NAMESPACE."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.namespace}"


_AnyName = TypeVar("_AnyName", str, ZdbEndpoint)


def _distinct(names: list[_AnyName]) -> list[_AnyName]:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{name} is named twice")
    return names


# One master's names of one service, the preferred one first.
_Some: Final = Field(min_length=1, max_length=MOST_SOURCES)
Urls: TypeAlias = Annotated[list[str], _Some, AfterValidator(_distinct)]
Endpoints: TypeAlias = Annotated[list[ZdbEndpoint], _Some, AfterValidator(_distinct)]
# What a spec of the release before named with one value, and where that stands now.
_ONCE_SINGLE: Final = {"source": "sources", "source_zdb": "sources_zdb"}


class Backoff(_Spec):
    """How long to wait after a failure: doubled from first to longest, with jitter."""

    first_seconds: Seconds = 1
    longest_seconds: Seconds = 300


class _Job(_Spec):
    version: Literal[1] = SPEC_VERSION
    stack: str
    paused: bool = False
    backoff: Backoff = Backoff()
    bandwidth_bytes_per_second: BytesPerSecond | None = None
    # How many percent of what is mirrored may vanish at once before the job pauses and asks.
    removal_limit: Fraction = 0.1
    # A mirror this small may always lose everything (see removal_limit).
    removal_floor_items: Annotated[int, Field(ge=0)] = 10
    # The operator's answer to a pause by removal_limit: raise by one to let it happen once.
    removal_confirmation: Annotated[int, Field(ge=0)] = 0
    # Kept free on the file system that the job writes to; below it the job pauses.
    free_space_floor_bytes: Annotated[int, Field(ge=0)] = 1 << 30

    @model_validator(mode="before")
    @classmethod
    def _take_single_names(cls, data: Any) -> Any:
        """Read a spec of the release before: it is on the host until `up` has written the new."""
        if not isinstance(data, dict):
            return data
        listed = {
            new: [data[old]]
            for old, new in _ONCE_SINGLE.items()
            if old in data and new in cls.model_fields and new not in data
        }
        kept = {key: value for key, value in data.items() if _ONCE_SINGLE.get(key) not in listed}
        return {**listed, **kept}


class Schedule(_Spec):
    """Time between the starts of two passes, plus up to `jitter` of it at random."""

    interval_seconds: Seconds = 300
    jitter: Fraction = 0.1


class HttpLimits(_Spec):
    """What a job may do to a master's HTTP service."""

    connections: Annotated[int, Field(ge=1, le=64)] = 16
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    connect_timeout_seconds: Seconds = 10
    read_timeout_seconds: Seconds = 30


class Selection(_Spec):
    """Shell patterns; a name is taken when one of `include` and none of `exclude` matches."""

    include: list[str] = ["*"]
    exclude: list[str] = []


class UsersSpec(_Job):
    """The users job: repositories, flists, links and tags from a hub.

    sources: base URLs of the master's hub, the preferred one first: names of one and the same
    master; the next is used while the one before it is dead. sources_zdb: the master's chunks,
    likewise. local_zdb: this mirror's 0-db, reached by the agent as admin with the password in
    /secrets/zdb-admin.
    publish_backend: what a published flist's metadata.backend is rewritten to; null keeps the
    master's. allowed_backends: further 0-dbs a flist's chunks may be fetched from.
    foreign_namespace: local namespace for the chunks of those, out of reach of the deletes.
    local_zdb_memory_bytes: what the local 0-db may take; the job pauses before it is filled
    (see sync.contract.zdb_memory). null: not limited.
    flists: patterns on `REPO/NAME.flist`. official: repositories synced first.
    broken_flists: what to do with a flist whose chunks no allowed 0-db has.
    """

    job: Literal["users"] = "users"
    sources: Urls
    sources_zdb: Endpoints
    local_zdb: ZdbEndpoint
    local_zdb_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    publish_backend: ZdbEndpoint | None = None
    allowed_backends: list[ZdbEndpoint] = []
    foreign_namespace: str = "foreign"
    repositories: Selection = Selection()
    flists: Selection = Selection()
    official: list[str] = [
        "tf-zos",
        "tf-bootable",
        "tf-official-apps",
        "tf-official-vms",
        "tf-autobuilder",
        "tf-solutions",
        "tf-dockers",
        "tf-elevated",
    ]
    schedule: Schedule = Schedule()
    http: HttpLimits = HttpLimits()
    retention_days: Annotated[float, Field(ge=0)] = 0
    broken_flists: Literal["withhold", "publish"] = "withhold"
    # Chunks in flight that this job fetches ahead of the bulk sync.
    chunk_fetch_limit: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    max_flist_bytes: Annotated[int, Field(ge=1)] = 1 << 30

    @property
    def source(self) -> str:
        """The preferred name of the master's hub."""
        return self.sources[0]

    @property
    def source_zdb(self) -> ZdbEndpoint:
        """The preferred name of the master's 0-db."""
        return self.sources_zdb[0]


class KernelsSpec(_Job):
    """The kernels job: kernels and net links from a bootstrap server.

    sources: base URLs, as in UsersSpec. net_links: set a run mode's kernel by hand instead of
    asking the master.
    links: names of links at the top of the master's kernel folder, which no listing tells.
    kernels: patterns on the file name. newest: keep only so many (null: all). max_age_days: leave
    out older ones (null: none). A kernel that a link names is always taken and never removed.
    """

    job: Literal["kernels"] = "kernels"
    sources: Urls
    run_modes: list[str] = ["prod", "test", "dev", "qa"]
    net_links: dict[str, str] = {}
    links: list[str] = []
    kernels: Selection = Selection()
    newest: Annotated[int, Field(ge=1)] | None = None
    max_age_days: Annotated[float, Field(gt=0)] | None = None
    schedule: Schedule = Schedule()
    http: HttpLimits = HttpLimits(connections=8)
    retention_days: Annotated[float, Field(ge=0)] = 0
    max_kernel_bytes: Annotated[int, Field(ge=1)] = 2 << 30

    @property
    def source(self) -> str:
        """The preferred name of the master's bootstrap server."""
        return self.sources[0]


class FlistsSpec(_Job):
    """The flists job: every chunk of a 0-db namespace, first all, then as they come.

    sources: the master's namespace, read without a password, by its names as in UsersSpec; the
    first is the one in use (see `at`). local_zdb, local_zdb_memory_bytes: as in UsersSpec.
    connections x batches of at most batch_keys keys and about batch_bytes bytes are in flight.
    scanners: 1 lists serially; more start at keys spread over the index. poll_seconds: the
    fall-back when WAIT gives no sign. deletes_without_users: apply the master's deletes although
    no users job runs here that could say which chunks are still named (see docs).
    """

    job: Literal["flists"] = "flists"
    sources: Endpoints
    local_zdb: ZdbEndpoint
    local_zdb_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 8
    batches: Annotated[int, Field(ge=2, le=64)] = 4
    batch_keys: Annotated[int, Field(ge=1, le=1023)] = 500
    batch_bytes: Annotated[int, Field(ge=1, le=64 << 20)] = 1 << 20
    scanners: Annotated[int, Field(ge=1, le=64)] = 8
    poll_seconds: Seconds = 5
    delete_check_seconds: Seconds = 60
    deletes_without_users: bool = False
    io_timeout_seconds: Seconds = 30

    @property
    def source(self) -> ZdbEndpoint:
        """The name of the master's namespace that is in use."""
        return self.sources[0]

    def at(self, endpoint: ZdbEndpoint) -> Self:
        """Return the spec of one session: `endpoint` is in use, the other names follow."""
        others = [other for other in self.sources if other != endpoint]
        return self.model_copy(update={"sources": [endpoint, *others]})


JobSpec: TypeAlias = Annotated[UsersSpec | KernelsSpec | FlistsSpec, Field(discriminator="job")]
_ADAPTER: Final[TypeAdapter[UsersSpec | KernelsSpec | FlistsSpec]] = TypeAdapter(JobSpec)


def canonical(spec: UsersSpec | KernelsSpec | FlistsSpec) -> bytes:
    """Serialize: UTF-8 JSON, sorted keys, no spaces, one newline: equal specs, equal bytes."""
    data = spec.model_dump(mode="json")
    return (json.dumps(data, sort_keys=True, separators=(",", ":")) + "\n").encode()


def digest(spec: UsersSpec | KernelsSpec | FlistsSpec) -> str:
    """SHA-256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(spec)).hexdigest()


def parse(data: bytes | str) -> UsersSpec | KernelsSpec | FlistsSpec:
    """Read a spec.json; pydantic.ValidationError names every wrong key."""
    return _ADAPTER.validate_json(data)
