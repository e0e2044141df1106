"""The hub tells an uploader why the packer refused, and opens few flists at a time."""

import json
import subprocess
import threading
from pathlib import Path

import pytest

from hub_tools import archives, refusals
from tests.hub_tools.place import hubs_error


class Application:
    """As Flask's, as far as refusals.py knows it."""

    def handle_user_exception(self, error: Exception) -> object:
        raise error


def test_the_hub_answers_with_the_reason_and_handles_other_errors_as_before() -> None:
    class Patched(Application):
        pass

    refusals.tell_clients(Patched)
    told = Patched().handle_user_exception(hubs_error("packer: refused: the upload climbs\n"))
    assert told == ({"status": "error", "message": "the upload climbs"}, 400)
    gone = Patched().handle_user_exception(hubs_error("the packer does not answer: [Errno 2]"))
    assert gone == ({"status": "error", "message": "the packer does not answer: [Errno 2]"}, 500)
    for error in (ValueError("x"), hubs_error("Traceback"), KeyError("response")):
        with pytest.raises(type(error)):
            Patched().handle_user_exception(error)


def test_the_upload_page_shows_the_reason_and_ends() -> None:
    class Raw:
        jobid = "7"
        told: list[object]

        def progress(self, message: str, percent: int) -> None:
            self.told.append((message, percent))

    class Announcer:
        def finalize(self, job: str) -> None:
            raw.told.append(job)

    class Flists:
        announcer = Announcer()

        def __init__(self, error: Exception) -> None:
            self.raw, self._error = raw, error

        def create(self, _: str) -> None:
            raise self._error

    raw = Raw()
    refusals.tell_page(Flists)
    for error, told in (
        (hubs_error("packer: refused: <b> is a link"), [("&lt;b&gt; is a link", 0), "7"]),
        (hubs_error("Traceback"), []),
        (KeyError("response"), []),
    ):
        raw.told = []
        with pytest.raises(type(error)):
            Flists(error).create("x")
        assert raw.told == told


@pytest.mark.parametrize("method", ["contents", "allmetadata"])
def test_whoever_asks_few_flists_are_opened_at_a_time_and_all_in_the_end(method: str) -> None:
    lock, began, end = threading.Lock(), threading.Semaphore(0), threading.Event()
    now, most, failed = [0], [0], []

    def opened(self: object) -> object:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        began.release()
        end.wait(20)
        with lock:
            now[0] -= 1
        raise hubs_error("packer: refused: it is no flist")

    flists = type("Flists", (), {method: opened})
    refusals.take_turns(flists)

    def ask() -> None:
        try:
            getattr(flists(), method)()
        except json.JSONDecodeError:
            failed.append(1)

    clients = [threading.Thread(target=ask) for _ in range(50)]
    for client in clients:
        client.start()
    for _ in range(refusals.OPENED_AT_ONCE):
        assert began.acquire(timeout=20)
    assert not began.acquire(timeout=0.3)
    end.set()
    for client in clients:
        client.join(20)
    assert (most[0], len(failed)) == (refusals.OPENED_AT_ONCE, 50)


def test_it_installs_itself_where_flask_is_and_nowhere_else() -> None:
    code = "import sys\n{}from hub_tools import refusals\nassert 'flask' {} sys.modules\n{}"
    fake = "import types\nF = type('F', (), {'handle_user_exception': None})\n"
    fake += "sys.modules['flask'] = types.SimpleNamespace(Flask=F)\n"
    fake += "H = type('H', (), {'create': None})\n"
    fake += "sys.modules['hub'] = types.ModuleType('hub')\n"
    fake += "sys.modules['hub.flist'] = types.SimpleNamespace(HubPublicFlist=H)\n"
    for text in (
        code.format("", "not in", ""),
        code.format(fake, "in", "assert F.handle_user_exception and H.create\n"),
    ):
        root = Path(archives.__file__).parents[1]
        subprocess.run(["/usr/bin/python3", "-c", text], check=True, cwd=root)
