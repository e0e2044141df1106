"""The 0-db stand-in answers as zdbd 2.0.7 did when it was recorded; ZDBD names a real one to ask.

Every recorded step is taken; LEFT_OUT names those whose answers are not compared, and why.
"""

import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Final

import pytest

from tests.golden.replay_zdb import Json, Player, Step, recorded
from tests.sandbox.host.ports import free_port
from tests.sandbox.services.zdb import ZdbServer
from tests.sandbox.services.zdb.__main__ import opened
from tests.sandbox.tests.servers import ended, started

ZDBD: Final = os.environ.get("ZDBD")
SCENARIOS: Final = {scenario["name"]: scenario for scenario in recorded()["scenarios"]}
SERVED: Final = [name for name, scenario in SCENARIOS.items() if "answer" not in scenario]
COMPARED: Final = 4324
_AT_ONCE: Final = 16  # scenarios wait far more than they work


@dataclass(frozen=True)
class LeftOut:
    """So many answers, those of steps for which `what` holds, are not compared."""

    answers: int
    why: str
    what: Callable[[str, int, Step], bool]


def _asks(*commands: str) -> Callable[[str, int, Step], bool]:
    return lambda _scenario, _number, step: step.get("cmd", [""])[0] in commands


def _stands(scenario: str, *numbers: int) -> Callable[[str, int, Step], bool]:
    return lambda name, number, _step: name == scenario and number in numbers


# Neither this project nor a node, zflist or rfs asks any of these.
LEFT_OUT: Final = {
    "replication": LeftOut(
        19,
        "MIRROR and MASTER feed one zdbd from another; a mirror here copies with SCAN and MGET",
        lambda *step: (
            _asks("MIRROR", "MASTER", "M")(*step)
            or _stands("replication and maintenance commands", 38, 39, 42, 43)(*step)
        ),
    ),
    "hooks and dirty indexes": LeftOut(
        49, "HOOKS and INDEX serve zdbd's backup programs", _asks("HOOKS", "H", "INDEX", "I")
    ),
    "DATA RAW": LeftOut(113, "an admin's look into data files", _asks("DATA", "D")),
    "KSCAN": LeftOut(20, "zdbd's releases refuse it", _asks("KSCAN", "K")),
    "sequential mode": LeftOut(
        6, "0-db runs in mode user here and upstream", _stands("no mode flag", 4, 6, 7, 9, 10, 12)
    ),
    "made-up cursors": LeftOut(
        5,
        "zdbd takes its index file's header for an entry; nobody sends a cursor that SCAN, RSCAN "
        "or KEYCUR did not give",
        _stands("a cursor of zero bytes", 2, 4, 5, 6, 7),
    ),
    "empty data files": LeftOut(
        1,
        "RSCAN ends at a file that two NSJUMPs left empty; nobody jumps",
        _stands("replication and maintenance commands", 26),
    ),
}


class _Standin:
    """The stand-in in a thread, reading from its sockets as zdbd does."""

    def __init__(self, place: Path, flags: list[str]) -> None:
        self.data, self.index, self.port = place / "data", place / "index", 0
        self._flags = flags
        self._server = self._started()
        self.port = self._server.port

    def _started(self) -> ZdbServer:
        places = ["--data", str(self.data), "--index", str(self.index)]
        address = ["--listen", "127.0.0.1", "--port", str(self.port)]
        server = opened([*places, *address, *self._flags])
        server.stalls = True
        server.start()
        socket.create_connection(("127.0.0.1", server.port)).close()  # as who starts a zdbd asks
        return server

    def restart(self) -> None:
        self._server.stop()
        self._server = self._started()

    def exit_code(self) -> int | None:
        return None if self._server.serves else 1

    def stop(self) -> None:
        self._server.stop()


class _Zdbd:
    """A real zdbd."""

    def __init__(self, place: Path, flags: list[str], port: int) -> None:
        self.data, self.index, self.port = place / "data", place / "index", port
        for folder in (self.data, self.index):
            folder.mkdir(parents=True)
        places = ["--data", str(self.data), "--index", str(self.index)]
        address = ["--listen", "127.0.0.1", "--port", str(port)]
        self._command = [str(ZDBD), *places, *address, *flags]
        self._process = started(self._command, port, place)

    def restart(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._process = started(self._command, self.port, self.data)

    def exit_code(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        ended(self._process)


def _play(scenario: Json, place: Path, port: int) -> list[Json]:
    place.mkdir()
    server = _Zdbd(place, scenario["flags"], port) if port else _Standin(place, scenario["flags"])
    player = Player(server)
    try:
        return [player.answer(step) for step in scenario["steps"]]
    finally:
        player.close()
        server.stop()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[Json]]]]:
    """Give what each scenario's steps are answered now; all are played at once."""
    place = tmp_path_factory.mktemp("zdb")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            name: pool.submit(_play, SCENARIOS[name], place / str(number), port)
            for number, name in enumerate(SERVED)
            for port in [free_port() if ZDBD else 0]
        }
        pool.shutdown(cancel_futures=True)


def _group(scenario: str, number: int, step: Step) -> str | None:
    for name, group in LEFT_OUT.items():
        if group.what(scenario, number, step):
            return name
    return None


def _differences(name: str, answers: list[Json]) -> Iterator[tuple[str | None, str]]:
    """Give each answer that differs, with the group that leaves it out."""
    for number, (step, received) in enumerate(zip(SCENARIOS[name]["steps"], answers, strict=True)):
        if received != step.get("answer", {}):
            asked = {key: value for key, value in step.items() if key != "answer"}
            texts = [json.dumps(value)[:600] for value in (asked, step.get("answer"), received)]
            text = "step {}: {}\n  recorded {}\n  received {}".format(number, *texts)
            yield _group(name, number, step), text


@pytest.mark.parametrize("name", SERVED)
def test_every_answer_is_as_recorded(name: str, played: dict[str, Future[list[Json]]]) -> None:
    found = _differences(name, played[name].result())
    differences = [text for group, text in found if ZDBD or group is None]
    assert not differences, "\n".join(differences)


def test_a_server_that_ended_at_start_ends_at_start(tmp_path: Path) -> None:
    for name in SCENARIOS.keys() - set(SERVED):
        flags = ["--data", str(tmp_path / "data"), "--index", str(tmp_path / "index")]
        command = [ZDBD] if ZDBD else [sys.executable, "-m", "tests.sandbox.services.zdb"]
        done = run([*command, *flags, *SCENARIOS[name]["flags"]], timeout=20, check=False)
        assert {"server": "exits at start", "exit": done.returncode} == SCENARIOS[name]["answer"]


def test_what_is_left_out_is_named_and_counted() -> None:
    counted = Counter(
        _group(name, number, step)
        for name in SERVED
        for number, step in enumerate(SCENARIOS[name]["steps"])
        if "answer" in step
    )
    assert counted.pop(None) == COMPARED
    assert counted == {name: group.answers for name, group in LEFT_OUT.items()}


@pytest.mark.skipif(ZDBD is not None, reason="of a real zdbd nothing is left out")
def test_no_group_is_left_out_that_is_answered_as_recorded(
    played: dict[str, Future[list[Json]]],
) -> None:
    found = [_differences(name, played[name].result()) for name in SERVED]
    assert {group for differences in found for group, _ in differences} == set(LEFT_OUT)
