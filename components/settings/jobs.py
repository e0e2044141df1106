"""Settings of the three sync jobs: what an operator may set of sync/contract/spec.py.

Each becomes part of a spec by `model_dump()` (python names are the spec's own). What a spec
derives from elsewhere in the settings (sources, endpoints, the stack's name) is not repeated here.
"""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from components.settings.base import Section, default_of
from components.settings.values import Host, PlainName, Port

Seconds: TypeAlias = Annotated[float, Field(gt=0)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Days: TypeAlias = Annotated[float, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


class SelectionSettings(Section):
    """Shell patterns; a name is taken when one of `include` and none of `exclude` matches."""

    include: list[str] = Field(["*"], description="Patterns of what is taken.")
    exclude: list[str] = Field([], description="Patterns of what is left out of it.")


class ScheduleSettings(Section):
    """When passes start."""

    interval_seconds: Seconds = Field(300.0, description="Time between the starts of two passes.")
    jitter: Fraction = Field(0.1, description="Part of the interval added at random.")


class BackoffSettings(Section):
    """How long to wait after a failure: doubled from first to longest, with jitter."""

    first_seconds: Seconds = Field(1.0, description="After the first failure.")
    longest_seconds: Seconds = Field(300.0, description="Never longer than this.")


_CONNECTIONS: Final = "Requests at the same time."


class HttpSettings(Section):
    """What a job may do to a master's HTTP service."""

    connections: int = Field(16, ge=1, le=64, description=_CONNECTIONS)
    requests_per_second: Seconds | None = Field(None, description="At most; unset: no limit.")
    connect_timeout_seconds: Seconds = Field(10.0, description="To connect.")
    read_timeout_seconds: Seconds = Field(30.0, description="Without a byte.")


class KernelsHttpSettings(HttpSettings):
    """The same for kernels, which are few and large."""

    connections: int = Field(8, ge=1, le=64, description=_CONNECTIONS)


class BackendSettings(Section):
    """A further 0-db that a flist's chunks may be fetched from."""

    host: Host = Field(description="Name or address (IPv6 without brackets).")
    port: Port = Field(9900, description="TCP port.")
    namespace: PlainName = Field("default", description="Namespace.")


class _JobSettings(Section):
    enabled: bool = Field(default=True, description="Whether the job runs; its data stays if not.")
    paused: bool = Field(default=False, description="Hold the job; it keeps reporting.")
    backoff: BackoffSettings = Field(
        default_of(BackoffSettings), description="Waiting after failures."
    )
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


class UsersSettings(_JobSettings):
    """The users job: repositories, flists, links and tags."""

    rewrite_backend: bool = Field(
        default=True,
        description="Published flists name this mirror's 0-db instead of the master's.",
    )
    allowed_backends: list[BackendSettings] = Field(
        [], description="Further 0-dbs that flists may take their chunks from."
    )
    foreign_namespace: PlainName = Field(
        "foreign", description="Local namespace for chunks of `allowedBackends`."
    )
    repositories: SelectionSettings = Field(
        default_of(SelectionSettings),
        description="Patterns on repository names. A tag that leads to a flist of a repository "
        "that is left out is not shown.",
    )
    flists: SelectionSettings = Field(
        default_of(SelectionSettings),
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
    schedule: ScheduleSettings = Field(default_of(ScheduleSettings), description="Passes.")
    http: HttpSettings = Field(default_of(HttpSettings), description="Load on the master.")
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


class KernelsSettings(_JobSettings):
    """The kernels job: kernels, the net link of each run mode, links at the top."""

    run_modes: list[PlainName] = Field(
        ["prod", "test", "dev", "qa"], description="Run modes whose net link is followed."
    )
    net_links: dict[PlainName, PlainName] = Field(
        {}, description="Run mode to kernel file: set by hand instead of asking the master."
    )
    links: list[PlainName] = Field(
        [],
        description="Links at the top of the master's kernel folder (`/kernel/NAME`, made with "
        "upstream's `/api/symlink`), which no listing tells; each is made here as a link to the "
        "same kernel.",
    )
    kernels: SelectionSettings = Field(
        default_of(SelectionSettings), description="Patterns on kernel file names."
    )
    newest: Positive | None = Field(None, description="Keep only so many; unset: all.")
    max_age_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Leave out older ones; unset: none."
    )
    schedule: ScheduleSettings = Field(default_of(ScheduleSettings), description="Passes.")
    http: KernelsHttpSettings = Field(
        default_of(KernelsHttpSettings), description="Load on the master."
    )
    retention_days: Days = Field(0.0, description="How long a deleted kernel is kept aside.")
    max_kernel_bytes: Positive = Field(2 << 30, description="A larger kernel is refused.")


class FlistsSettings(_JobSettings):
    """The flists job: every chunk of the master's namespace."""

    connections: int = Field(8, ge=1, le=64, description="Connections to the master's 0-db.")
    batches: int = Field(4, ge=2, le=64, description="Batches in flight per connection.")
    batch_keys: int = Field(500, ge=1, le=1023, description="Chunks of a batch, at most.")
    batch_bytes: int = Field(1 << 20, ge=1, le=64 << 20, description="Size of a batch, about.")
    scanners: int = Field(8, ge=1, le=64, description="Parallel listings of the first snapshot.")
    poll_seconds: Seconds = Field(5.0, description="Listing interval when nothing is announced.")
    delete_check_seconds: Seconds = Field(60.0, description="Time between looks for deletions.")
    deletes_without_users: bool = Field(
        default=False,
        description="Apply the master's deletions although no users job runs here to say which "
        "chunks are still needed.",
    )
    io_timeout_seconds: Seconds = Field(30.0, description="Without a byte from a 0-db.")
