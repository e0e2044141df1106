"""A model of master and slave driven at random against the real engine: the outcome is the same."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.agent.chunks.chunks_mirror import FlistsMirror, Job, chunks, content, following
from tests.sandbox.host import run
from tests.sandbox.wan import Fault, Relay


class Mirrored(RuleBasedStateMachine):
    """master: what the master holds. kept: what the slave keeps although the master dropped it."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = run.in_memory()
        self._mirror = FlistsMirror(Path(self._folder.name), stand_in=True)
        self._mirror.master.start()
        self._mirror.slave.start()
        self._relay = Relay(("127.0.0.1", self._mirror.master.port))
        self._relay.__enter__()
        port = self._relay.address[1]
        self._mirror.source = self._mirror.master.endpoint.model_copy(update={"port": port})
        self._mirror.overrides = {"deletes_without_users": True, "removal_limit": 1.0}
        self._job: Job | None = None
        self._seed = 0
        self._master: dict[bytes, bytes] = {}
        self._uploads: dict[bytes, bytes] = {}
        self._followed = False

    def teardown(self) -> None:
        self._stop()
        self._relay.__exit__(None, None, None)
        self._mirror.master.stop()
        self._mirror.slave.stop()
        self._folder.cleanup()

    def _stop(self) -> None:
        if self._job:
            self._job.stop()
            self._job = None

    @initialize()
    def first_content(self) -> None:
        self.write(30)

    @rule(count=st.integers(1, 60))
    def write(self, count: int) -> None:
        self._seed += 1
        made = chunks(count, self._seed, size=300)
        with self._mirror.master.connect() as master:
            master.set_many(made)
        self._master |= {key: payload for key, payload, _ in made}

    @rule(name=st.integers(0, 3), payload=st.binary(max_size=50))
    def overwrite_a_name(self, name: int, payload: bytes) -> None:
        with self._mirror.master.connect() as master:
            master.set_many([(b"name %d" % name, payload, None)])
        self._master[b"name %d" % name] = payload

    @precondition(lambda self: len(self._master) > 1)
    @rule(share=st.floats(0.01, 0.5))
    def delete_some(self, share: float) -> None:
        doomed = sorted(self._master)[: max(1, int(share * (len(self._master) - 1)))]
        with self._mirror.master.connect() as master:
            master.delete_many(doomed)
        for key in doomed:
            del self._master[key]

    @rule(payload=st.binary(min_size=1, max_size=50))
    def upload_locally(self, payload: bytes) -> None:
        key = hashlib.blake2b(b"local" + payload, digest_size=20).digest()
        with self._mirror.slave.connect() as slave:
            slave.set_many([(key, payload, None)])
        self._uploads[key] = payload

    @rule()
    def restart_the_job(self) -> None:
        self._stop()
        self._job = self._mirror.job()
        self._job.__enter__()

    @rule(kind=st.sampled_from(["reset", "truncate"]), after=st.integers(0, 5000))
    def break_a_connection(self, kind: str, after: int) -> None:
        self._relay.fault = Fault(kind, after_bytes=after)  # type: ignore[arg-type]
        self._relay.reset_all()

    @rule()
    def kill_the_slave(self) -> None:
        self._mirror.slave.kill()
        self._mirror.slave.start()

    @rule()
    def kill_the_master(self) -> None:
        self._mirror.master.kill()
        self._mirror.master.start()

    @precondition(lambda self: self._job is not None)
    @rule()
    def come_to_rest(self) -> None:
        assert self._job
        self._relay.fault = None
        expected = self._master | self._uploads
        self._job.wait(lambda _: self._slave() == expected, f"{len(expected)} keys")
        self._job.wait(following)

    @invariant()
    def the_job_never_gives_up(self) -> None:
        assert self._job is None or self._job.ended is None, repr(self._job.ended)

    def _slave(self) -> dict[bytes, bytes | None]:
        with self._mirror.slave.connect() as slave:
            return {key: payload for key, (payload, _) in content(slave).items()}


Mirrored.TestCase.settings = settings(
    max_examples=4,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestMirrored = Mirrored.TestCase


class _Longer(Mirrored):
    """The same, for many and longer lives, and other ones each time."""


_Longer.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestMirroredForLong = pytest.mark.soak(_Longer.TestCase)
