"""Boot media are built in turn, once each; who would wait too long is told so at once."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.builds import Builds, BusyError, Medium, Order, Shelf


def order(name: str) -> Order:
    return Order("bootstrap.test", f"/iso/prod/{name}")


def medium(body: bytes = b"iso", status: int = 200) -> Medium:
    return Medium(status, (("content-type", "application/octet-stream"),), body)


@dataclass
class Workshop:
    """Builds what is ordered, when it is told to. most: how many were under way at a time."""

    begun: list[str] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    now: int = 0
    most: int = 0

    async def build(self, ordered: Order) -> Medium:
        name = ordered.path.rpartition("/")[2]
        self.begun.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.gates.setdefault(name, asyncio.Event()).wait()
        self.now -= 1
        return medium(name.encode())

    def finish(self, name: str) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()

    def builds(self, at_once: int = 2, waiting: int = 4, per_client: int = 2) -> Builds:
        return Builds(
            self.build,
            at_once=at_once,
            most_waiting=waiting,
            per_client=per_client,
            shelf=Shelf(1 << 20),
        )


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def asked(builds: Builds, name: str, client: str = "a") -> asyncio.Task[Medium]:
    return asyncio.create_task(builds.medium(order(name), client))


def test_equal_orders_are_built_once_and_then_kept() -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds()
        tasks = [asked(builds, "1", f"client-{n}") for n in range(200)]
        await settled()
        shop.finish("1")
        assert {(await task).body for task in tasks} == {b"1"}
        assert (await builds.medium(order("1"), "late")).body == b"1"
        assert shop.begun == ["1"]

    asyncio.run(run())


def test_no_more_than_that_many_are_under_way_and_the_rest_waits_or_is_refused_at_once() -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds(at_once=2, waiting=4, per_client=100)
        tasks = [asked(builds, str(number)) for number in range(200)]
        await settled()
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 200 - 2 - 4
        assert all(isinstance(task.exception(), BusyError) for task in refused)
        for number in range(6):
            shop.finish(str(number))
        assert [(await task).body for task in tasks[:6]] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert shop.most == 2

    asyncio.run(run())


def test_one_client_with_many_holds_up_nobody() -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds(at_once=1, waiting=10, per_client=3)
        rude = [asked(builds, f"rude-{number}", "rude") for number in range(9)]
        await settled()
        assert sum(task.done() for task in rude) == 9 - 1 - 3
        polite = asked(builds, "polite", "polite")
        await settled()
        shop.finish("rude-0")
        await settled()
        shop.finish("rude-1")
        await settled()
        assert shop.begun == ["rude-0", "rude-1", "polite"]
        shop.finish("polite")
        assert (await polite).body == b"polite"
        for task in rude:
            task.cancel()

    asyncio.run(run())


def test_a_few_clients_with_a_full_queue_shut_out_nobody() -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds(at_once=1, waiting=32, per_client=8)
        rude = [asked(builds, f"rude-{n}", f"rude-{n % 4}") for n in range(33)]
        await settled()
        assert not any(task.done() for task in rude)
        polite = [asked(builds, f"polite-{n}", f"polite-{n}") for n in range(20)]
        await settled()
        assert not any(task.done() for task in polite)
        told = [task for task in rude if task.done()]
        assert len(told) == 20
        assert all(isinstance(task.exception(), BusyError) for task in told)
        assert {builds.turns.of(f"rude-{n}") for n in range(4)} == {3}
        equal = asked(builds, "rude-more", "rude-1")
        await settled()
        assert isinstance(equal.exception(), BusyError)
        for task in (*rude, *polite):
            task.cancel()

    asyncio.run(run())


def test_who_may_be_anybody_shares_the_whole_queue() -> None:
    async def run() -> None:
        builds = Workshop().builds(at_once=1, waiting=10, per_client=1)
        tasks = [asked(builds, str(number), "") for number in range(11)]
        await settled()
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_what_nobody_waits_for_any_more_is_not_built() -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds(at_once=1)
        first, second, third = (asked(builds, name) for name in "123")
        await settled()
        second.cancel()
        await settled()
        shop.finish("1")
        await first
        await settled()
        assert shop.begun == ["1", "3"]
        third.cancel()
        await settled()
        # What runs is not ended by its client's going: it counts until it is done.
        assert builds.running == 1
        shop.finish("3")
        await settled()
        assert builds.running == 0

    asyncio.run(run())


@pytest.mark.parametrize(("status", "again"), [(200, 1), (404, 1), (500, 2), (502, 2)])
def test_a_fault_of_the_server_is_not_kept(status: int, again: int) -> None:
    async def run() -> None:
        asked_for: list[Order] = []

        async def build(ordered: Order) -> Medium:
            asked_for.append(ordered)
            return medium(status=status)

        builds = Builds(build, at_once=1, most_waiting=1, per_client=1, shelf=Shelf(1 << 20))
        for _ in range(2):
            assert (await builds.medium(order("1"), "a")).status == status
        assert len(asked_for) == again

    asyncio.run(run())


def test_a_medium_is_kept_for_an_hour_and_a_refusal_for_half_a_minute() -> None:
    shelf = Shelf(100)
    shelf.put(order("1"), medium(), 0)
    shelf.put(order("2"), medium(status=404), 0)
    assert [shelf.get(order(name), 29) is not None for name in "12"] == [True, True]
    assert [shelf.get(order(name), 31) is not None for name in "12"] == [True, False]
    assert shelf.get(order("1"), 3601) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70)), max_size=60))
def test_the_shelf_never_holds_more_than_it_may(put: list[tuple[int, int]]) -> None:
    shelf, model = Shelf(100), dict[int, bytes]()
    for name, size in put:
        body = bytes(size)
        shelf.put(order(str(name)), medium(body), 0)
        model[name] = body
        kept = [shelf.get(order(str(one)), 0) for one in model]
        assert shelf.held_bytes == sum(len(one.body) for one in kept if one) <= 100
        last = shelf.get(order(str(name)), 0)
        assert last is not None
        assert last.body == body


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "leave", "finish"]),
            st.integers(0, 8),
            st.sampled_from(["", "a", "b"]),
        ),
        max_size=50,
    ),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(1, 3),
)
def test_bounds_hold_through_any_coming_and_going_and_all_who_stay_are_answered(
    steps: list[tuple[str, int, str]], at_once: int, waiting: int, per_client: int
) -> None:
    async def run() -> None:
        shop = Workshop()
        builds = shop.builds(at_once, waiting, per_client)
        tasks: list[tuple[str, asyncio.Task[Medium]]] = []
        for act, number, client in steps:
            if act == "ask":
                tasks.append((str(number), asked(builds, str(number), client)))
            elif act == "leave" and tasks:
                tasks.pop(number % len(tasks))[1].cancel()
            elif act == "finish" and shop.begun:
                shop.finish(shop.begun[number % len(shop.begun)])
            await settled()
            assert builds.running <= at_once
            assert len(builds.turns) <= waiting
            assert all(builds.turns.of(one) <= per_client for one in "ab")
        for number in range(9):
            shop.finish(str(number))
        for name, task in tasks:
            done = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(done[0], BusyError):
                assert isinstance(done[0], Medium)
                assert done[0].body == name.encode()
        assert max(Counter(shop.begun).values(), default=1) <= 1 or builds.running == 0
        await settled()
        assert (builds.running, len(builds.turns)) == (0, 0)

    asyncio.run(run())
