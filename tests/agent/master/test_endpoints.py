"""The names of a master: which one is in use, which are skipped, and when they are back."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator

import pytest

from sync.agent.job import Control
from sync.agent.master.client import (
    ATTEMPTS,
    EndpointLostError,
    HttpError,
    HttpMissingError,
    Master,
)
from sync.agent.master.endpoints import MasterEndpoints, by_any_name
from sync.contract import spec as contract
from sync.contract.spec import Backoff, FlistsSpec, HttpLimits, KernelsSpec, UsersSpec
from sync.contract.status import Service, SourceUse
from tests.agent.dead_names import OF_HTTP, no_such_name
from tests.agent.scripted import Answer, Asked, ScriptedServer

MAX = 1 << 20
QUICK = Backoff(first_seconds=0.01, longest_seconds=0.02)
SLOW = Backoff(first_seconds=1000, longest_seconds=8000)
LIMITS = HttpLimits(connections=4, connect_timeout_seconds=0.5, read_timeout_seconds=0.5)


class Reported:
    """The last report for the status record."""

    def __init__(self) -> None:
        self.uses: list[SourceUse] = []

    def __call__(self, service: Service, uses: list[SourceUse]) -> None:
        assert {use.service for use in uses} == {service}
        self.uses = uses

    @property
    def in_use(self) -> list[str]:
        return [use.name for use in self.uses if use.in_use]

    @property
    def skipped(self) -> list[str]:
        return [use.name for use in self.uses if use.reason]


class Names:
    """Three names, a clock to be moved, and what is reported."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reported = Reported()
        self.endpoints = MasterEndpoints(
            "zdb", ["a", "b", "c"], SLOW, self.reported, lambda: self.now
        )


@pytest.fixture
def names() -> Names:
    return Names()


def test_the_first_name_is_in_use_while_it_answers(names: Names) -> None:
    assert names.endpoints.choose() == "a"
    names.endpoints.answered()
    assert names.endpoints.choose() == names.endpoints.current == "a"
    assert [(use.in_use, use.since is not None) for use in names.reported.uses] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_a_dead_name_is_not_reported_as_in_use_while_it_is_tried_again(names: Names) -> None:
    names.endpoints.choose()
    names.endpoints.skip("a", "refused")
    assert names.endpoints.choose() == "b"
    names.endpoints.answered()
    assert names.reported.in_use == ["b"]
    names.now += 10_000
    assert names.endpoints.choose() == "a"
    assert names.reported.in_use == ["b"]
    names.endpoints.answered()
    assert names.reported.in_use == ["a"]


def test_a_dead_name_is_skipped_for_a_time_that_grows_and_is_reported(names: Names) -> None:
    waits = []
    for _ in range(4):
        assert names.endpoints.choose() == "a"
        assert names.endpoints.skip("a", "refused")
        assert names.endpoints.choose() == "b"
        names.endpoints.answered()
        first = names.reported.uses[0]
        assert (names.reported.in_use, first.reason) == (["b"], "refused")
        assert first.since is not None
        assert first.next_try_at is not None
        ((_, wait),) = names.endpoints.preferred()
        waits.append(wait)
        names.now += wait - 1
        assert names.endpoints.choose() == "b"
        names.now += 1
    for wait, longest in zip(waits, [1000, 2000, 4000, 8000], strict=True):
        assert longest / 2 <= wait <= longest


def test_the_preferred_name_is_back_at_the_next_beginning_after_it_answers(names: Names) -> None:
    since = names.reported.uses[0].since
    names.endpoints.skip("a", "refused")
    names.endpoints.choose()
    names.endpoints.answered()
    names.now += 1000
    assert names.endpoints.current == "b"
    assert names.endpoints.choose() == "a"
    assert names.reported.skipped == ["a"]
    names.endpoints.answered()
    assert (names.reported.in_use, names.reported.skipped) == (["a"], [])
    assert [use.since is None for use in names.reported.uses] == [False, True, True]
    assert since is not None
    # The wait is the first one again.
    names.endpoints.skip("a", "refused")
    names.endpoints.choose()
    ((_, wait),) = names.endpoints.preferred()
    assert wait <= 1000


def test_before_all_are_dead_each_is_tried_although_it_is_not_due(names: Names) -> None:
    assert names.endpoints.skip("a", "no DNS")
    assert names.endpoints.choose() == "b"
    names.endpoints.answered()
    assert names.endpoints.skip("b", "no TLS")
    assert names.endpoints.choose() == "c"
    assert names.endpoints.skip("c", "refused")
    assert names.endpoints.choose() == "a"
    assert not names.endpoints.skip("a", "no DNS")
    assert names.endpoints.reasons() == (
        "none of the master's 3 names answers: a (no DNS); b (no TLS); c (refused)"
    )
    # And again from the first, in order.
    tried = []
    for _ in range(3):
        tried.append(names.endpoints.choose())
        names.endpoints.skip(tried[-1], "still dead")
    assert tried == ["a", "b", "c"]


def test_what_is_tried_beside_the_name_in_use_is_reported(names: Names) -> None:
    names.endpoints.skip("a", "refused")
    names.endpoints.choose()
    names.endpoints.answered()
    names.endpoints.attempted("a", "no DNS")
    assert names.reported.uses[0].reason == "no DNS"
    assert names.endpoints.choose() == "b"
    names.endpoints.attempted("a", "")
    assert names.reported.skipped == []
    assert names.endpoints.choose() == "a"


def test_a_name_that_asked_for_patience_is_not_chosen_before(names: Names) -> None:
    assert names.endpoints.skip("a", "503", 5000)
    names.now += 1000
    for dies in "bcb":
        assert names.endpoints.choose() == dies
        names.endpoints.answered()
        assert names.endpoints.skip(dies, "refused")
    assert names.endpoints.patience_seconds() == 0
    names.now += 4000
    assert names.endpoints.choose() == "a"
    names.endpoints.answered()
    assert names.reported.uses[0].reason == ""


def test_where_all_names_ask_for_patience_none_is_left_and_the_first_to_be_due_is_next(
    names: Names,
) -> None:
    assert names.endpoints.skip("a", "503", 50)
    assert names.endpoints.skip("b", "503", 30)
    assert not names.endpoints.skip("c", "503", 40)
    assert names.endpoints.patience_seconds() == 30
    assert names.endpoints.choose() == "b"


# The master's HTTP services


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.pages["/file"] = Answer(b"content")
        running.pages["/"] = Answer(b"the front page")
        yield running


def make_master(reported: Reported, *sources: str) -> Master:
    return Master(sources, LIMITS, Control(), backoff=QUICK, report=reported)


@pytest.mark.parametrize("death", OF_HTTP)
def test_a_name_that_dies_is_skipped_with_the_reason(
    death: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_such_name(monkeypatch)
    reported = Reported()
    with OF_HTTP[death]() as dead:
        master = make_master(reported, dead.url, server.url)
        with pytest.raises(EndpointLostError) as lost:
            master.get("/file", MAX)
        assert lost.value.others
        # Until the next pass nothing else is asked for, of whomever.
        with pytest.raises(EndpointLostError):
            master.head("/file")
        assert server.asked == []
        master.begin_pass()
        assert master.get("/file", MAX).body == b"content"
    assert (reported.in_use, reported.skipped) == ([server.url], [dead.url])
    assert dead.says in reported.uses[0].reason
    assert reported.uses[0].next_try_at is not None


NOT_A_DEATH: dict[str, Answer] = {
    "404": Answer(status=404),
    "403": Answer(status=403),
    "410": Answer(status=410),
    "429": Answer(status=429),
    "500": Answer(status=500),
    "502": Answer(status=502),
    "503": Answer(status=503),
    "504": Answer(status=504),
    "truncated": Answer(b"x" * 1000, fault="truncate"),
    "broken off": Answer(b"x" * 1000, fault="reset"),
    "hung in the body": Answer(b"x" * 1000, fault="hang"),
    "elsewhere": Answer(status=302, headers={"Location": "https://other.example/"}),
}


@pytest.mark.parametrize("what", NOT_A_DEATH)
def test_one_page_that_fails_is_no_reason_to_skip_its_name(
    what: str, server: ScriptedServer
) -> None:
    reported = Reported()
    server.pages["/bad"] = NOT_A_DEATH[what]
    with ScriptedServer() as other:
        master = make_master(reported, server.url, other.url)
        with pytest.raises(HttpError) as failed:
            master.get("/bad", MAX)
        assert isinstance(failed.value, HttpMissingError) == (what in {"404", "410"})
        assert master.get("/file", MAX).body == b"content"
        master.begin_pass()
        assert master.get("/file", MAX).body == b"content"
        assert other.asked == []
    assert (reported.in_use, reported.skipped) == ([server.url], [])


PARKED = Answer(status=302, headers={"Location": "https://other.example/"})
ROUND = Answer(status=302, headers={"Location": "/"})
INSIDE = Answer(status=302, headers={"Location": "/file"})
BUSY = Answer(status=503)


@pytest.mark.parametrize(
    ("page", "front", "dead"),
    [
        (BUSY, PARKED, False),
        (BUSY, ROUND, False),
        (BUSY, INSIDE, False),
        (BUSY, BUSY, True),
        (PARKED, INSIDE, False),
        (PARKED, BUSY, True),
        (PARKED, PARKED, True),
    ],
    ids=[
        "busy, the front leads elsewhere",
        "busy, the front leads to itself",
        "busy, the front leads inside",
        "busy both",
        "elsewhere, the front leads inside",
        "elsewhere, the front is busy",
        "elsewhere both",
    ],
)
def test_a_front_page_that_leads_anywhere_answers_unless_all_lead_elsewhere(
    page: Answer, front: Answer, *, dead: bool, server: ScriptedServer
) -> None:
    server.pages |= {"/bad": page, "/": front}
    with ScriptedServer() as other:
        master = make_master(Reported(), server.url, other.url)
        with pytest.raises(EndpointLostError if dead else HttpError):
            master.get("/bad", MAX)


def test_a_short_fault_is_no_death(server: ScriptedServer) -> None:
    left = [Answer(status=502)]
    server.script = lambda _: left.pop() if left else None
    reported = Reported()
    master = make_master(reported, server.url, "http://127.0.0.1:1")
    assert master.get("/file", MAX).body == b"content"
    assert reported.skipped == []


def test_the_preferred_name_is_gone_back_to_at_a_pass_boundary_only(
    server: ScriptedServer,
) -> None:
    down = [True]

    def script(_: Asked) -> Answer | None:
        return Answer(status=503) if down[0] else None

    with ScriptedServer(script) as first:
        first.pages["/file"] = Answer(b"first")
        reported = Reported()
        master = make_master(reported, first.url, server.url)
        with pytest.raises(EndpointLostError):
            master.get("/file", MAX)
        master.begin_pass()
        down[0] = False
        while any(due > 0 for _, due in master._endpoints.preferred()):
            assert master.get("/file", MAX).body == b"content"
        assert master.get("/file", MAX).body == b"content"
        master.begin_pass()
        assert master.get("/file", MAX).body == b"first"
        assert (reported.in_use, reported.skipped) == ([first.url], [])
        assert {idle.origin.port for idle in master._idle} == {first.server_address[1]}


def test_when_all_names_are_dead_the_error_has_each_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_such_name(monkeypatch)
    with OF_HTTP["DNS"]() as one, OF_HTTP["502 for all"]() as two, OF_HTTP["no TLS"]() as three:
        deaths = [one, two, three]
        master = make_master(Reported(), *(dead.url for dead in deaths))
        for number in range(3):
            with pytest.raises(EndpointLostError) as lost:
                master.get("/file", MAX)
            assert lost.value.others == (number < 2)
            master.begin_pass()
        for dead in deaths:
            assert dead.url in str(lost.value)
            assert dead.says in str(lost.value)
        assert "none of the master's 3 names answers" in str(lost.value)


def test_a_single_name_is_asked_as_often_as_ever_and_again_in_the_next_pass(
    server: ScriptedServer,
) -> None:
    server.script = lambda _: Answer(status=503)
    master = make_master(Reported(), server.url)
    with pytest.raises(EndpointLostError) as lost:
        master.get("/file", MAX)
    assert (lost.value.others, str(lost.value)) == (False, "/file: 503")
    assert [asked.path for asked in server.asked] == ["/file"] * ATTEMPTS + ["/"]
    server.script = None
    master.begin_pass()
    assert master.get("/file", MAX).body == b"content"


def test_a_name_that_asks_for_patience_is_left_in_peace_for_so_long(
    server: ScriptedServer,
) -> None:
    answer = Answer(status=503, headers={"Retry-After": "3600"})
    with ScriptedServer(lambda _: answer) as first:
        master = make_master(Reported(), first.url, server.url)
        with pytest.raises(EndpointLostError) as lost:
            master.get("/file", MAX)
        assert lost.value.retry_after_seconds == 0
        master.begin_pass()
        assert master.get("/file", MAX).body == b"content"
        ((_, wait),) = master._endpoints.preferred()
        assert 3500 < wait <= 3600
        asked = len(first.asked)
        server.script = lambda _: answer
        with pytest.raises(EndpointLostError) as lost:
            master.get("/file", MAX)
        # Not even as the last hope is the first one asked again.
        assert not lost.value.others
        assert 3500 < lost.value.retry_after_seconds <= 3600
        assert len(first.asked) == asked


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("patience", [0, 3600])
@pytest.mark.parametrize("well", [False, True], ids=["all die", "the last one goes on"])
def test_names_that_list_well_and_then_die_get_one_turn_each(
    count: int, patience: int, *, well: bool
) -> None:
    """One limiter may stand before all of them; those that died are due again by then."""
    busy = Answer(status=503, headers={"Retry-After": str(patience)} if patience else {})

    def script(asked: Asked) -> Answer:
        return Answer(b"{}") if asked.path == "/list" else busy

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ScriptedServer(script)) for _ in range(count)]
        if well:
            servers[-1].script = lambda _: Answer(b"{}")
        master = make_master(Reported(), *(server.url for server in servers))

        def one_pass() -> str:
            master.begin_pass()
            master.get("/list", MAX)
            master.get("/file", MAX)
            return master.source

        if well:
            assert by_any_name(one_pass) == servers[-1].url
        else:
            with pytest.raises(EndpointLostError, match="none of the master's") as lost:
                by_any_name(one_pass)
    for server in servers:
        assert [asked.path for asked in server.asked].count("/list") == 1
    if well:
        return
    assert not lost.value.others
    assert max(0, patience - 100) <= lost.value.retry_after_seconds <= patience


def test_whoever_waits_for_a_name_learns_soon_that_it_was_given_up(
    server: ScriptedServer,
) -> None:
    """One request is asked to wait an hour; the other finds that nobody is there any more."""
    refuse = threading.Event()

    def script(asked: Asked) -> Answer | None:
        if asked.path == "/slow" or (asked.path == "/" and not refuse.is_set()):
            return Answer(status=429, headers={"Retry-After": "3600"})
        return Answer(status=503) if refuse.is_set() else None

    with ScriptedServer(script) as first:
        first.pages["/file"] = Answer(b"first")
        master = make_master(Reported(), first.url, server.url)
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                master.get("/slow", MAX)
            except EndpointLostError as error:
                ended.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        while master._not_before < time.monotonic() + 60:
            waiting.join(0.01)
        master._not_before = 0
        refuse.set()
        with pytest.raises(EndpointLostError):
            master.get("/file", MAX)
        waiting.join(10)
        assert [type(error) for error in ended] == [EndpointLostError]


# Specs


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"job": "users", "source": "http://a", "source_zdb": {"host": "z"}},
            {"sources": ["http://a"], "sources_zdb": [{"host": "z"}]},
        ),
        ({"job": "kernels", "source": "http://a"}, {"sources": ["http://a"]}),
        ({"job": "flists", "source": {"host": "z"}}, {"sources": [{"host": "z"}]}),
    ],
    ids=["users", "kernels", "flists"],
)
def test_a_spec_of_the_release_before_is_read(
    old: dict[str, object], new: dict[str, object]
) -> None:
    common: dict[str, object] = {"job": old["job"], "stack": "t", "version": 1}
    if old["job"] != "kernels":
        common["local_zdb"] = {"host": "zdb"}
    read = contract.parse(json.dumps(common | old))
    assert read == contract.parse(json.dumps(common | new))
    assert contract.parse(contract.canonical(read)) == read
    with pytest.raises(ValueError, match="source"):
        contract.parse(json.dumps(common | old | new))


@pytest.mark.parametrize("sources", [[], ["http://a", "http://a"], ["http://a"] * 9])
def test_a_spec_names_some_distinct_sources(sources: list[str]) -> None:
    with pytest.raises(ValueError, match="sources"):
        KernelsSpec(stack="t", sources=sources)


def test_the_name_in_use_leads_the_spec_of_a_session() -> None:
    zdbs = [contract.ZdbEndpoint(host=host) for host in "abc"]
    spec = FlistsSpec(stack="t", sources=zdbs, local_zdb=zdbs[0])
    assert spec.source == zdbs[0]
    assert spec.at(zdbs[1]).sources == [zdbs[1], zdbs[0], zdbs[2]]
    users = UsersSpec(
        stack="t", sources=["http://a", "http://b"], sources_zdb=zdbs, local_zdb=zdbs[0]
    )
    assert (users.source, users.source_zdb) == ("http://a", zdbs[0])
