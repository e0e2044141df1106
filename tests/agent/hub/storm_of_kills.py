"""Random kill -9 of agent, slave and master while the master is written and deleted from."""

import contextlib
import random
import threading
import time

from sync.agent.zdb.errors import ZdbError
from tests.agent.chunks.chunks_mirror import AgentProcess, FlistsMirror, chunks


class Storm:
    """Kills, and at the end compares: nothing lost, nothing wrong, nothing extra."""

    def __init__(self, mirror: FlistsMirror, seed: int) -> None:
        self._mirror = mirror
        self._random = random.Random(seed)
        self._calm = threading.Event()
        # Nobody writes while the master is down; and it is not killed in the middle of starting.
        self._master_lock = threading.Lock()
        self._seed = seed

    def rage(self, kills: int) -> None:
        """Kill so many times, then let everything come to rest and compare."""
        mirror = self._mirror
        with mirror.master.connect() as master:
            master.set_many(chunks(3000, self._seed))
        agent = AgentProcess(
            mirror, deletes_without_users=True, removal_limit=1, io_timeout_seconds=3
        )
        writer = threading.Thread(target=self._write, name="writer", daemon=True)
        with agent:
            writer.start()
            try:
                for _ in range(kills):
                    time.sleep(self._random.uniform(0.05, 0.8))
                    self._kill(agent)
            finally:
                self._calm.set()
                writer.join(30)
            mirror.await_same(agent)

    def _kill(self, agent: AgentProcess) -> None:
        victim = self._random.choice(("agent", "slave", "master"))
        if victim == "agent":
            agent.kill()
            agent.start()
        elif victim == "slave":
            self._mirror.slave.kill()
            self._mirror.slave.start()
        else:
            with self._master_lock:
                self._mirror.master.kill()
                self._mirror.master.start()

    def _write(self) -> None:
        round_number = 0
        while not self._calm.is_set():
            round_number += 1
            made = chunks(60, self._seed * 100_000 + round_number)
            with (
                self._master_lock,
                contextlib.suppress(ZdbError),
                self._mirror.master.connect() as master,
            ):
                master.set_many(made)
                master.delete_many([key for key, _, _ in made[:10]])
                name = b"name %d" % (round_number % 5)
                master.set_many([(name, b"payload %d" % round_number, None)])
            self._calm.wait(0.05)
