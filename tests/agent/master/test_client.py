"""The HTTP client against a master that does everything wrong."""

import contextlib
import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from sync.agent.job import Control
from sync.agent.master import client
from sync.agent.master.client import (
    EndpointLostError,
    Expected,
    HttpError,
    HttpMissingError,
    HttpStoppedError,
    Master,
    Page,
)
from sync.agent.master.http1 import Origin
from sync.agent.rate_limit import bandwidth
from sync.contract.spec import Backoff, HttpLimits
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.wan import Link, Relay

BODY = bytes(range(256)) * 2000
MD5 = hashlib.md5(BODY).hexdigest()
WHOLE = Expected(len(BODY), MD5)
MAX = 1 << 20
QUICK = Backoff(first_seconds=0.01, longest_seconds=0.02)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.pages["/file"] = Answer(BODY)
        yield running


class Timeless(Control):
    """Waits no time, and notes for how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        return False


def make_master(server: ScriptedServer, **limits: float) -> Master:
    values = {"connections": 4, "connect_timeout_seconds": 2, "read_timeout_seconds": 0.6} | limits
    return Master([server.url], HttpLimits.model_validate(values), Control(), backoff=QUICK)


def script_once(server: ScriptedServer, *answers: Answer) -> None:
    """Answer the first requests so, then as usual."""
    left = list(answers)
    lock = threading.Lock()

    def script(_: Asked) -> Answer | None:
        with lock:
            return left.pop(0) if left else None

    server.script = script


def test_file_arrives_whole_over_one_kept_connection(
    server: ScriptedServer, tmp_path: Path
) -> None:
    master = make_master(server)
    for number in range(3):
        done = master.download("/file", tmp_path / str(number), MAX, WHOLE)
        assert (done.size_bytes, done.md5) == (len(BODY), MD5)
        assert (tmp_path / str(number)).read_bytes() == BODY
    assert len(master._idle) == 1
    assert done.page.modified_seconds == 1_700_000_000
    master.close()


@pytest.mark.parametrize("fault", ["truncate", "reset", "hang"])
def test_broken_transfer_is_resumed_by_range_under_its_validator(
    fault: str, server: ScriptedServer, tmp_path: Path
) -> None:
    script_once(server, Answer(BODY, fault=fault))
    done = make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)
    assert (tmp_path / "f").read_bytes() == BODY
    assert done.md5 == MD5
    second = server.asked[1].headers
    if fault != "reset":  # a reset may discard what was sent before it
        start = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= len(BODY) // 2
        assert second["If-Range"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_resume_starts_anew_when_the_file_changed_meanwhile(
    server: ScriptedServer, tmp_path: Path
) -> None:
    changed = b"another file altogether"

    def script(asked: Asked) -> Answer | None:
        first = len(server.asked) == 1
        return Answer(BODY, fault="truncate") if first else Answer(changed, headers={"X": "1"})

    server.script = script
    asked_range = server_without_ranges(server)
    expected = Expected(len(changed), hashlib.md5(changed).hexdigest())
    make_master(server).download("/file", tmp_path / "f", MAX, expected)
    assert (tmp_path / "f").read_bytes() == changed
    assert asked_range


def server_without_ranges(server: ScriptedServer) -> list[str]:
    """Have the server answer 200 whatever Range says, as If-Range of a changed file does."""
    seen = ["If-Range"]
    inner = server.script

    def script(asked: Asked) -> Answer | None:
        asked.headers.pop("Range", None)
        return inner(asked) if inner else None

    server.script = script
    return seen


def test_wrong_range_in_the_answer_is_never_appended(
    server: ScriptedServer, tmp_path: Path
) -> None:
    lie = Answer(BODY[5:], 206, headers={"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"})
    script_once(server, Answer(BODY, fault="truncate"), lie)
    make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)
    assert (tmp_path / "f").read_bytes() == BODY


def test_flipped_byte_is_found_and_fetched_again(server: ScriptedServer, tmp_path: Path) -> None:
    script_once(server, Answer(BODY, fault="flip"))
    make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)
    assert (tmp_path / "f").read_bytes() == BODY
    script_once(server, *[Answer(BODY, fault="flip")] * 9)
    with pytest.raises(HttpError, match="MD5"):
        make_master(server).download("/file", tmp_path / "g", MAX, WHOLE)
    assert not (tmp_path / "g").exists()


def test_short_file_without_a_length_is_not_taken_for_whole(
    server: ScriptedServer, tmp_path: Path
) -> None:
    script_once(server, *[Answer(BODY[:-1], fault="no-length")] * 9)
    with pytest.raises(HttpError, match="bytes, not"):
        make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)


@pytest.mark.parametrize("fault", ["", "endless", "no-length"])
def test_file_over_the_bound_is_cut_off(fault: str, server: ScriptedServer, tmp_path: Path) -> None:
    server.pages["/file"] = Answer(bytes(MAX + 1), fault=fault)
    with pytest.raises(HttpError, match="longer than"):
        make_master(server).download("/file", tmp_path / "f", MAX)
    assert not (tmp_path / "f").exists()


def test_file_that_says_it_is_over_the_bound_is_not_fetched(
    server: ScriptedServer, tmp_path: Path
) -> None:
    master = make_master(server)
    with pytest.raises(HttpError, match="longer than"):
        master.download("/file", tmp_path / "f", len(BODY) - 1)
    assert master.bytes_received == 0


def test_drip_of_single_bytes_counts_as_hung(server: ScriptedServer, tmp_path: Path) -> None:
    server.pages["/file"] = Answer(BODY, fault="drip")
    with pytest.raises(HttpError, match="hung"):
        make_master(server, read_timeout_seconds=0.2).download("/file", tmp_path / "f", MAX)


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("connections", [1, 4])
def test_file_that_trickles_in_counts_as_hung_once_it_is_alone(
    brief: bool, connections: int, server: ScriptedServer, tmp_path: Path
) -> None:
    """It would take 46 s here; a large one of a patient stranger takes weeks."""
    server.pages["/file"] = Answer(BODY, fault="trickle")
    server.pages["/sound"] = Answer(BODY)
    limits = {"read_timeout_seconds": 0.4, "connections": connections}
    master, started = make_master(server, **limits), time.monotonic()
    with (
        master.briefly() if brief else contextlib.nullcontext(),
        pytest.raises(HttpError, match="hung"),
    ):
        master.download("/file", tmp_path / "f", MAX)
    assert time.monotonic() - started < 15
    assert master.download("/sound", tmp_path / "g", MAX).size_bytes == len(BODY)
    assert master._busy == 0


def test_error_page_with_status_404_is_missing_and_500_is_tried_again(
    server: ScriptedServer, tmp_path: Path
) -> None:
    with pytest.raises(HttpMissingError):
        make_master(server).download("/none", tmp_path / "f", MAX)
    assert len(server.asked) == 1
    script_once(server, *[Answer(b"oops", 500)] * 3)
    make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)
    script_once(server, *[Answer(b"oops", 500)] * 9)
    with pytest.raises(HttpError, match="500"):
        make_master(server).download("/file", tmp_path / "f", MAX, WHOLE)
    script_once(server, Answer(b"no", 403))
    with pytest.raises(HttpError, match="403"):
        make_master(server).get("/file", MAX)


def test_retry_after_is_obeyed_by_all_threads(server: ScriptedServer) -> None:
    script_once(server, Answer(b"", 503, headers={"Retry-After": "1"}))
    master = make_master(server)
    started = time.monotonic()
    master.get("/file", MAX)
    assert time.monotonic() - started >= 0.9


def test_shorter_retry_after_never_ends_a_longer_one(server: ScriptedServer) -> None:
    script_once(
        server,
        Answer(b"", 503, headers={"Retry-After": "2"}),
        Answer(b"", 503, headers={"Retry-After": "1"}),
    )
    master = make_master(server)
    started = time.monotonic()
    # The second is on its way when the first is answered.
    with master._connection() as first, master._connection() as second:
        for connection in (first, second):
            reply = master._exchange(connection, "GET", "/file", {})
            with pytest.raises(HttpError, match="503"):
                master._raise_for("/file", reply)
    assert master.get("/file", MAX).body == BODY
    assert time.monotonic() - started > 1.8


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "https://127.0.0.1/file",
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "//example.org/file",
        "http://[broken",
        "/file?\u00e9",
        "/fil\u00e9",
        "",
    ],
)
def test_redirect_to_elsewhere_is_refused_with_the_remedy(
    location: str, server: ScriptedServer
) -> None:
    server.pages["/moved"] = Answer(b"", 302, headers={"Location": location})
    with pytest.raises(HttpError, match=r"set the source|redirects"):
        make_master(server).get("/moved", MAX)


def test_redirect_within_the_master_is_followed_but_not_for_ever(
    server: ScriptedServer,
) -> None:
    server.pages["/moved"] = Answer(b"", 301, headers={"Location": "/file"})
    assert make_master(server).get("/moved", MAX).body == BODY
    server.pages["/loop"] = Answer(b"", 302, headers={"Location": "/loop"})
    with pytest.raises(HttpError, match="redirects"):
        make_master(server).get("/loop", MAX)
    assert sum(asked.path == "/loop" for asked in server.asked) == 4


def test_gzip_is_unpacked_within_the_bound(server: ScriptedServer) -> None:
    coding = {"Content-Encoding": "gzip"}
    server.pages["/list"] = Answer(gzip.compress(b"[]"), headers=coding)
    page = make_master(server).get("/list", MAX)
    assert page.json() == []
    assert server.asked[-1].headers["Accept-Encoding"] == "gzip"
    server.pages["/bomb"] = Answer(gzip.compress(bytes(MAX * 50)), headers=coding)
    with pytest.raises(HttpError, match="longer"):
        make_master(server).get("/bomb", MAX)
    server.pages["/cut"] = Answer(gzip.compress(BODY)[:-9], headers=coding)
    with pytest.raises(HttpError, match="gzip"):
        make_master(server).get("/cut", MAX)
    server.pages["/br"] = Answer(b"x", headers={"Content-Encoding": "br"})
    with pytest.raises(HttpError, match="not asked for"):
        make_master(server).get("/br", MAX)


def test_unchanged_page_is_304(server: ScriptedServer) -> None:
    server.pages["/list"] = Answer(b"", 304)
    page = make_master(server).get("/list", MAX, {"If-None-Match": '"x"'})
    assert (page.status, page.body) == (304, b"")
    assert server.asked[-1].headers["If-None-Match"] == '"x"'


def test_description_and_file_cost_one_round_trip(server: ScriptedServer, tmp_path: Path) -> None:
    server.pages["/light"] = Answer(MD5.encode())

    def describe(page: Page) -> Expected:
        return Expected(None, page.body.decode())

    master = make_master(server)
    for number in range(3):
        done = master.download_described("/light", "/file", tmp_path / str(number), MAX, describe)
        assert done.md5 == MD5
    assert [asked.path for asked in server.asked] == ["/light", "/file"] * 3
    assert len(master._idle) == 1


def test_master_without_keep_alive_is_asked_one_by_one(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.pages["/light"] = Answer(MD5.encode(), fault="no-length")
    server.pages["/file"] = Answer(BODY, fault="no-length")
    master = make_master(server)
    for number in range(2):
        done = master.download_described(
            "/light",
            "/file",
            tmp_path / str(number),
            MAX,
            lambda page: Expected(None, page.body.decode()),
        )
        assert done.md5 == MD5
    assert not master._idle


def test_connection_closed_by_the_master_while_idle_is_replaced_at_once(
    server: ScriptedServer, tmp_path: Path
) -> None:
    control = Timeless()
    master = Master([server.url], HttpLimits(), control, backoff=QUICK)
    master.get("/file", MAX)
    master._idle[0]._sock.shutdown(2)
    master.download("/file", tmp_path / "f", MAX, WHOLE)
    assert control.waits == []


def test_requests_and_bytes_a_second_are_limited(server: ScriptedServer) -> None:
    master = make_master(server, requests_per_second=20)
    started = time.monotonic()
    for _ in range(15):
        master.get("/file", MAX)
    assert time.monotonic() - started > 0.4
    slow = Master(
        [server.url],
        HttpLimits(connections=1),
        Control(),
        bandwidth=bandwidth(len(BODY) * 2),
    )
    started = time.monotonic()
    for _ in range(2):
        slow.get("/file", MAX)
    assert time.monotonic() - started > 0.4


def test_bandwidth_is_kept_however_low_it_is(server: ScriptedServer) -> None:
    control, limit = Timeless(), bandwidth(20_000)
    Master([server.url], HttpLimits(), control, bandwidth=limit).get("/file", MAX)
    assert max(control.waits) > (len(BODY) - (1 << 16)) / 20_000 - 2


def test_connections_are_limited(server: ScriptedServer) -> None:
    at_once, most = [0], [0]
    lock, three = threading.Lock(), threading.Barrier(3)

    def script(_: Asked) -> Answer | None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        three.wait(30)
        with lock:
            at_once[0] -= 1
        return None

    server.script = script
    master = make_master(server, connections=3)
    threads = [threading.Thread(target=master.get, args=("/file", MAX)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 3


def test_stop_ends_a_hanging_transfer_soon(server: ScriptedServer, tmp_path: Path) -> None:
    server.pages["/file"] = Answer(BODY, fault="hang")
    control = Control()
    limits = HttpLimits(read_timeout_seconds=30)
    master = Master([server.url], limits, control, backoff=QUICK)
    threading.Timer(0.1, control.stop).start()
    with pytest.raises(HttpStoppedError):  # else the transfer would be hung, after 30 s
        master.download("/file", tmp_path / "f", MAX)


@pytest.mark.parametrize("url", ["ftp://x", "file:///etc/passwd", "hub.grid.tf", "http://"])
def test_source_must_be_http(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        Master([url], HttpLimits(), Control())


def test_origin_with_an_ipv6_address_and_default_ports() -> None:
    assert Origin("http", "::1", 8080).host_header == "[::1]:8080"
    assert Origin("https", "hub.grid.tf", 443).host_header == "hub.grid.tf"


def test_unreachable_master_is_named(server: ScriptedServer) -> None:
    master = Master(["http://127.0.0.1:1"], HttpLimits(), Control(), backoff=QUICK)
    with pytest.raises(EndpointLostError, match=r"127\.0\.0\.1:1: cannot connect"):
        master.get("/", MAX)


@pytest.mark.parametrize("kept", [1, 4])
def test_connections_that_rested_are_not_waited_for(
    kept: int, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NAT forgot them: it swallows what is sent there, and would until the time-out."""
    monkeypatch.setattr("sync.agent.master.client._RESTED_SECONDS", 0.3)
    nat = Relay(("127.0.0.1", server.server_address[1]), Link(forgets_seconds=0.3))
    limits = HttpLimits(connections=kept, read_timeout_seconds=3600)
    with nat, ThreadPoolExecutor(kept) as pool:
        master = Master([f"http://127.0.0.1:{nat.address[1]}"], limits, Control())
        for _ in range(3):
            together = threading.Barrier(kept)

            def get(_: int, together: threading.Barrier = together) -> bytes:
                with master._connection() as connection:
                    together.wait(10)
                    connection.send("GET", ["/file"], {})
                    return connection.reply("GET").read_all(MAX)

            assert list(pool.map(get, range(kept), timeout=30)) == [BODY] * kept
            assert len(master._idle) == kept
            time.sleep(0.5)
        assert nat.accepted == 3 * kept
        master.close()


LONG: Final = 2.0  # in place of an hour


@pytest.mark.parametrize("status", [403, 404, 408, 429, 500, 503])
@pytest.mark.parametrize("at", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT", "99999999999999"])
def test_one_page_that_asks_for_a_long_wait_fails_alone(
    status: int, at: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGE_PATIENCE_SECONDS", 0.05)
    server.script = lambda asked: (
        Answer(status=status, headers={"Retry-After": at}) if asked.path == "/bad" else None
    )
    server.pages["/file"] = Answer(BODY)
    master, started = make_master(server), time.monotonic()
    with pytest.raises(HttpError, match=str(status)):
        master.get("/bad", MAX)
    for _ in range(3):
        assert master.get("/file", MAX).body == BODY
    assert time.monotonic() - started < LONG


def test_master_that_asks_for_a_long_wait_on_all_pages_is_left_alone(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGE_PATIENCE_SECONDS", 0.05)
    busy = Answer(status=503, headers={"Retry-After": f"{LONG:.0f}"})
    until = time.monotonic() + 1
    server.pages["/file"] = Answer(BODY)
    server.script = lambda _: busy if time.monotonic() < until else None
    master, started = make_master(server), time.monotonic()
    assert master.get("/file", MAX).body == BODY
    assert time.monotonic() - started >= LONG
    assert len(server.asked) == 3, "the page, the front page, the page again"
