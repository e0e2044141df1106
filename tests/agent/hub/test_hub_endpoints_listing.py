"""A name of the master that answers, but not with the listing that a pass begins with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sync.agent.hub.verification import verify as verify_users
from sync.agent.job import Control, JobFailed, VerifyOptions
from sync.agent.kernels.verification import verify as verify_kernels
from sync.agent.master.client import EndpointLostError, HttpError, HttpMissingError, Master
from sync.contract.layout import Job
from sync.contract.spec import Backoff, KernelsSpec, UsersSpec
from tests.agent.hub.small_hub import DAY, OLD, small_model
from tests.agent.kernels.kernels_mirror import kernels, served
from tests.agent.master.sources_of import IMPATIENT, running_job, skipped, stranger, url_of
from tests.agent.mirrors import UsersMirror, kernels_spec, model_tree, users_mirror
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.upstream import Upstream

MAX = 1 << 20
LISTINGS = ("/api/fileslist", "/api/repositories", "/api/images", "/images")
SILENT = Answer(fault="silent")
PARKED = b"<html>This domain is for sale</html>"
# What comes in place of the listing, and what is said of it.
BAD: dict[str, tuple[Answer, str]] = {
    "404": (Answer(status=404), "404"),
    "403": (Answer(status=403), "403"),
    "500": (Answer(status=500), "500"),
    "503": (Answer(status=503), "503"),
    "a page for people": (Answer(PARKED), "not JSON"),
    "of another shape": (Answer(b"7"), "not "),
    "no answer": (SILENT, "hung"),
    "stalls": (Answer(b"[]" * 500, fault="hang"), "hung"),
    "truncated": (Answer(b"[]" * 500, fault="truncate"), "truncated"),
    "leads elsewhere": (
        Answer(status=302, headers={"Location": "https://parked.example/"}),
        "redirected",
    ),
}


@contextmanager
def without_listing(answer: Answer) -> Iterator[ScriptedServer]:
    """Serve a name whose front page is well, and whose listing is this."""

    def script(asked: Asked) -> Answer | None:
        if asked.path not in LISTINGS:
            return Answer(b"the front page") if asked.path == "/" else None
        if answer is SILENT:
            server.closing.wait(30)
        return answer

    server = ScriptedServer(script)
    with server:
        yield server


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    model = small_model()
    for number in range(6):
        model.add_kernel(f"zos-{number}.efi", b"MZ" + bytes(40_000 + number), OLD + number * DAY)
    with Upstream(model) as master:
        yield master


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream, http=IMPATIENT) as made:
        yield made


JOBS: tuple[Job, ...] = ("users", "kernels")


def own_name(job: Job, upstream: Upstream) -> str:
    return url_of(upstream.hub if job == "users" else upstream.bootstrap)


def spec_of(job: Job, mirror: UsersMirror, *sources: str) -> UsersSpec | KernelsSpec:
    if job == "kernels":
        return kernels_spec(mirror.upstream, sources=list(sources), http=IMPATIENT)
    mirror.settings["sources"] = list(sources)
    return mirror.spec()


def is_whole(job: Job, mirror: UsersMirror) -> bool:
    if job == "kernels":
        return served(mirror.directories) == kernels(mirror.upstream)
    return mirror.served() == model_tree(mirror.upstream.model)


def problems(spec: UsersSpec | KernelsSpec, mirror: UsersMirror) -> list[str]:
    """Compare the mirror with its master."""
    if isinstance(spec, UsersSpec):
        report = verify_users(spec, mirror.directories, VerifyOptions())
    else:
        report = verify_kernels(spec, mirror.directories, VerifyOptions())
    return [problem.name for problem in report.problems]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("job", JOBS)
def test_a_name_that_gives_no_listing_is_skipped(job: Job, bad: str, mirror: UsersMirror) -> None:
    answer, says = BAD[bad]
    second = own_name(job, mirror.upstream)
    with (
        without_listing(answer) as first,
        running_job(spec_of(job, mirror, first.url, second), mirror.directories) as running,
    ):
        record = running.complete(second)
    assert is_whole(job, mirror)
    assert says in skipped(record)[first.url]


@pytest.mark.parametrize("job", JOBS)
def test_verify_compares_with_the_name_that_gives_a_listing(job: Job, mirror: UsersMirror) -> None:
    second = own_name(job, mirror.upstream)
    with without_listing(Answer(PARKED)) as first:
        spec = spec_of(job, mirror, first.url, second)
        with running_job(spec, mirror.directories) as running:
            running.complete(second)
        assert problems(spec, mirror) == []


@pytest.mark.parametrize("job", JOBS)
def test_the_name_that_is_left_must_be_the_same_masters(job: Job, mirror: UsersMirror) -> None:
    own = own_name(job, mirror.upstream)
    with running_job(spec_of(job, mirror, own), mirror.directories) as running:
        running.complete(own)
    with Upstream(stranger()) as other, without_listing(Answer(status=404)) as bad:
        elsewhere = own_name(job, other)
        spec = spec_of(job, mirror, bad.url, elsewhere, own)
        with running_job(spec, mirror.directories) as running:
            failure = running.failure()
    assert isinstance(failure, JobFailed)
    assert f"{elsewhere} is another one" in str(failure)
    assert is_whole(job, mirror)


@pytest.mark.parametrize("job", JOBS)
def test_when_no_name_gives_a_listing_each_is_told_and_all_are_tried_again(
    job: Job, mirror: UsersMirror
) -> None:
    with without_listing(Answer(status=404)) as first, without_listing(Answer(PARKED)) as second:
        spec = spec_of(job, mirror, first.url, second.url)
        with running_job(spec, mirror.directories) as running:
            record = running.until(lambda record: record.retries >= 2)
    assert record.reason.startswith("none of the master's 2 names answers: ")
    assert set(skipped(record)) == {first.url, second.url}


# By the master's service alone


def listed(master: Master) -> bytes:
    """Begin a pass, and list."""
    master.begin_pass()
    with master.while_listing():
        return master.get("/api/images", MAX).body


def test_a_single_name_fails_as_ever() -> None:
    with without_listing(Answer(status=404)) as only:
        master = Master([only.url], IMPATIENT, Control())
        with pytest.raises(HttpMissingError):
            listed(master)
        with pytest.raises(HttpError, match="404"):
            master.get("/file", MAX)


def test_a_name_whose_listing_fails_again_is_left_alone_for_longer() -> None:
    """That its other pages answer does not count."""
    slow = Backoff(first_seconds=1000, longest_seconds=8000)
    now = [0.0]
    waits = []
    with without_listing(Answer(status=404)) as first, ScriptedServer() as second:
        second.pages["/api/images"] = Answer(b"[]")
        master = Master([first.url, second.url], IMPATIENT, Control(), backoff=slow)
        master._endpoints._clock = lambda: now[0]
        for _ in range(3):
            with pytest.raises(EndpointLostError) as lost:
                listed(master)
            assert lost.value.others
            assert listed(master) == b"[]"
            ((_, wait),) = master._endpoints.preferred()
            waits.append(wait)
            now[0] += wait
    for wait, longest in zip(waits, [1000, 2000, 4000], strict=True):
        assert longest / 2 <= wait <= longest


def test_a_page_that_fails_after_the_listing_is_no_reason_to_skip_its_name() -> None:
    with ScriptedServer() as first, ScriptedServer() as second:
        first.pages["/api/images"] = Answer(b"[]")
        master = Master([first.url, second.url], IMPATIENT, Control())
        assert listed(master) == b"[]"
        with pytest.raises(HttpMissingError):
            master.get("/file", MAX)
        assert listed(master) == b"[]"
        assert second.asked == []
