"""What idles costs the others nothing: whose connection goes when there is one too many."""

import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.ledger import AT_WORK_SECONDS, Ledger, holder


@dataclass(eq=False)
class Connection:
    """A connection that writes down that it was ended."""

    holder: str
    seen: float = 0.0
    ended: list["Connection"] = field(default_factory=list)

    def end(self) -> None:
        self.ended.append(self)

    def look_at(self, now: float) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_an_ipv6_subscriber_is_one_holder_whatever_address_of_its_64_it_takes(
    address: str, expected: str
) -> None:
    assert holder(address) == expected


def test_a_node_gets_in_beside_any_number_of_idle_connections_of_its_own_address() -> None:
    ended: list[Connection] = []
    ledger = Ledger(4000, 1000)
    for _ in range(20_000):
        assert ledger.admit(Connection("farm", ended=ended), 0.0)
    assert ledger.of("farm") == 1000
    node = Connection("farm", ended=ended)
    assert ledger.admit(node, 0.0)
    ledger.serve(node)
    for _ in range(20_000):
        assert ledger.admit(Connection("farm", ended=ended), 60.0)
    assert node not in ended


def test_when_all_is_full_who_holds_most_pays() -> None:
    ended: list[Connection] = []
    ledger = Ledger(100, 60)
    for address, number in (("rude", 60), ("farm", 30), ("home", 10)):
        for _ in range(number):
            assert ledger.admit(Connection(address, ended=ended), 0.0)
    for number in range(20):
        assert ledger.admit(Connection(f"node-{number}", ended=ended), 10.0)
    assert Counter(one.holder for one in ended) == {"rude": 20}


def test_who_is_at_work_is_not_ended_for_who_comes() -> None:
    ended: list[Connection] = []
    ledger = Ledger(100, 2)
    busy = [Connection("farm", ended=ended) for _ in range(2)]
    for connection in busy:
        assert ledger.admit(connection, 0.0)
        ledger.serve(connection)
    ledger.touch(busy[0], 10.0)
    ledger.touch(busy[1], 10.5)
    assert not ledger.admit(Connection("farm", ended=ended), 10.5)
    assert not ended
    assert ledger.admit(Connection("farm", ended=ended), 10.0 + AT_WORK_SECONDS)
    assert ended == [busy[0]]


def test_who_drips_a_byte_each_second_shuts_out_nobody() -> None:
    """Four addresses hold all there is, and every connection looks as if it were at work."""
    ended: list[Connection] = []
    ledger, now = Ledger(400, 100), 0.0
    rude = [Connection(f"rude-{number % 4}", ended=ended) for number in range(400)]
    for connection in rude:
        assert ledger.admit(connection, now)
        ledger.serve(connection)
    nodes = [Connection(f"node-{number}", ended=ended) for number in range(90)]
    for node in nodes:
        now += 0.5
        for connection in rude:
            ledger.touch(connection, now)
        assert ledger.admit(node, now)
        ledger.serve(node)
        for other in nodes:
            ledger.touch(other, now)
    assert {one.holder.partition("-")[0] for one in ended} == {"rude"}
    assert max(Counter(one.holder for one in ended).values()) <= 90 / 4 + 1


@pytest.mark.parametrize("working", [True, False], ids=["at work", "waiting for its answer"])
def test_half_openings_of_thousands_of_addresses_cost_those_who_asked_nothing(
    working: bool,
) -> None:
    ended: list[Connection] = []
    ledger = Ledger(4000, 1000)
    farm = [Connection("farm", ended=ended) for _ in range(200)]
    for connection in farm:
        assert ledger.admit(connection, 0.0)
        ledger.serve(connection)
    for number in range(20_000):
        now = number / 1000
        if working:
            ledger.touch(farm[number % 200], now)
        assert ledger.admit(Connection(f"idle-{number}", ended=ended), now)
    assert ledger.of("farm") == 200
    assert ledger.admit(Connection("node", ended=ended), 20.0)
    assert ledger.of("farm") == 200


def test_a_newcomer_takes_no_longer_the_more_addresses_there_are() -> None:
    ledger, began = Ledger(4000, 1000), time.process_time()
    for number in range(40_000):
        assert ledger.admit(Connection(f"flood-{number}"), number / 1000)
    assert time.process_time() - began < 5, "seconds for a flood; a look at each takes minutes"


def test_behind_a_gateway_that_hides_addresses_only_the_total_counts() -> None:
    ledger = Ledger(100, 10, shared=["172.31.0.1"])
    for _ in range(100):
        assert ledger.admit(Connection("172.31.0.1"), 0.0)
    assert ledger.admit(Connection("203.0.113.7"), 10.0)
    assert (ledger.of("172.31.0.1"), ledger.of("203.0.113.7")) == (99, 1)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "ask", "speak", "leave"]),
        st.sampled_from(["a", "b", "c", "gateway"]),
        st.integers(0, 30),
        st.floats(0, 3),
    ),
    max_size=120,
)


@dataclass
class Model:
    """Who is there, in the plainest form. asked: those that are served."""

    ledger: Ledger
    live: list[Connection] = field(default_factory=list)
    asked: set[Connection] = field(default_factory=set)

    def comes(self, who: str, now: float) -> None:
        ended: list[Connection] = []
        for one in self.live:
            one.ended = ended
        held = Counter(one.holder for one in self.live)
        own_full = held[who] >= self.ledger.per_holder and who != "gateway"
        full = own_full or len(self.live) >= self.ledger.total
        came = Connection(who)
        admitted = self.ledger.admit(came, now)
        assert admitted or full
        assert len(ended) == (1 if admitted and full else 0)
        for one in ended:
            if own_full:
                assert one.holder == who
            elif one in self.asked and now - one.seen < AT_WORK_SECONDS:
                self.pays_at_work(one, who, held)
                continue
            self.pays(one, now)
        self.live += [came] if admitted else []

    def pays(self, one: Connection, now: float) -> None:
        fellows = [other for other in self.live if other.holder == one.holder]
        if one in self.asked:
            assert now - one.seen >= AT_WORK_SECONDS
            assert all(other in self.asked for other in fellows)
            assert one.seen <= min(other.seen for other in fellows) + 0.2
        self.live.remove(one)

    def pays_at_work(self, one: Connection, who: str, held: Counter[str]) -> None:
        assert held[one.holder] == max(held.values()) > held[who] + 1
        assert all(other in self.asked for other in self.live)
        self.live.remove(one)


@settings(deadline=None)
@given(_STEPS, st.integers(1, 12), st.integers(1, 12))
def test_the_bounds_hold_and_who_pays_has_asked_for_nothing_or_was_silent_longest(
    steps: list[tuple[str, str, int, float]], total: int, per_holder: int
) -> None:
    ledger, now = Ledger(total, per_holder, shared=["gateway"]), 0.0
    model = Model(ledger)
    for act, who, number, passed in steps:
        now += passed
        if act == "come":
            model.comes(who, now)
        elif model.live:
            one = model.live[number % len(model.live)]
            if act == "ask":
                ledger.touch(one, now)
                ledger.serve(one)
                model.asked.add(one)
            elif act == "speak":
                ledger.touch(one, now)
            else:
                ledger.forget(one)
                ledger.forget(one)
                model.live.remove(one)
        held = Counter(one.holder for one in model.live)
        assert ledger.count == len(model.live) <= total
        assert all(ledger.of(name) == held[name] for name in ("a", "b", "c", "gateway"))
        assert all(held[name] <= per_holder for name in ("a", "b", "c"))
        assert {*map(id, ledger.connections())} == {*map(id, model.live)}
