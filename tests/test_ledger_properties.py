"""Whatever happens, in whatever order: no byte over budget, none leaked, none refused for nothing.

A model of a few lines keeps the same books; replicas come, measure, park, die and ask again,
holds and budgets come and go, nodes leave and the ledger is restarted.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from fake_clock import Clock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.errors import LeaseExceeded
from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB
from runtime.memory.ledger import HOLD_GRACE_S, Device, Lease, Ledger, Refusal

NODES = ("a", "b")
DEVICES: tuple[Device, ...] = tuple((node, key) for node in NODES for key in ("cuda:0", "host"))
STEPS = 60
RUNS = 120

sizes = st.integers(0, 5 * GIB)
pick = st.integers(0, 1_000)


def sort(device: Device) -> str:
    return device[1].partition(":")[0]


class LedgerMachine(RuleBasedStateMachine):
    """The ledger beside a model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ledger = Ledger(self.clock)
        self.wanted: dict[str, tuple[Lease, ...]] = {}  # of each replica that lives
        self.states: dict[str, str] = {}  # of each that has leases
        self.budgets: dict[Device, int] = {}
        self.most: dict[Device, int] = {}  # that may be leased: more than a budget that was cut
        self.holds: dict[str, float] = {}
        self.overruns: dict[tuple[str, str], int] = {}
        self.number = 0
        self.seen: Counter[str] = Counter()

    @initialize(budgets=st.lists(st.integers(5 * GIB, 20 * GIB), min_size=4, max_size=4))
    def devices_are_found(self, budgets: list[int]) -> None:
        for device, size in zip(DEVICES, budgets, strict=True):
            self._budget(device, size)

    # --- the model

    def _budget(self, device: Device, size: int) -> None:
        self.ledger.set_budget(device, size)
        self.budgets[device] = size
        self.most[device] = max(size, self._leased(device))

    def _leased(self, device: Device) -> int:
        return sum(
            lease.claim.context + lease.claim.host if state == "parked" else lease.claim.total
            for replica, state in self.states.items()
            for lease in self.wanted[replica]
            if lease.device == device
        )

    def _loading(self, device: Device) -> int:
        return sum(
            lease.claim.total
            for replica, state in self.states.items()
            for lease in self.wanted[replica]
            if lease.device == device and state == "loading"
        )

    def _admissible(self, wanted: tuple[Lease, ...], available: dict[Device, int]) -> bool:
        if any(lapses > self.clock.now for lapses in self.holds.values()):
            return False
        parked = self.states.get(wanted[0].replica) == "parked"
        for lease in wanted:
            device, claim = lease.device, lease.claim
            need = claim.total - (claim.context + claim.host if parked else 0)
            if device not in self.budgets or need > self.budgets[device] - self._leased(device):
                return False
            if self.overruns.get((lease.deployment, sort(device)), 0) > claim.total:
                return False
            if device in available and need > available[device] - self._loading(device):
                return False
        return True

    def _ask(self, wanted: tuple[Lease, ...], available: dict[Device, int]) -> None:
        replica = wanted[0].replica
        admissible = self._admissible(wanted, available)
        before = self.ledger.leases
        refusal = self.ledger.reserve(wanted, available)
        self.seen[refusal.reason if refusal else "granted"] += 1
        if refusal is None:
            assert admissible
            self.states[replica] = "loading"
        else:
            assert not admissible, refusal
            assert self.ledger.leases == before, "all or nothing"
            self._explains(refusal, wanted, available)
        # Asking again is harmless.
        leases, refusals = self.ledger.leases, dict(self.ledger.refusals)
        assert self.ledger.reserve(wanted, available) == refusal
        assert (self.ledger.leases, dict(self.ledger.refusals)) == (leases, refusals)

    def _explains(
        self, refusal: Refusal, wanted: tuple[Lease, ...], available: dict[Device, int]
    ) -> None:
        if refusal.reason == "held":
            assert all(name in refusal.message for name in self.ledger.holds)
        if refusal.reason in ("full", "unavailable"):
            (device,) = {
                lease.device for lease in wanted if f"GiB of {lease.device[1]}" in refusal.message
            }
            there = [held for held in self.ledger.leases if held.device == device]
            named = Counter(f"{held.deployment} {held.bytes / GIB:.2f}" for held in there)
            for text, count in named.items():
                assert refusal.message.count(text) >= count
        if refusal.reason == "full":
            (lease,) = (lease for lease in wanted if lease.device == device)
            assert refusal.lasting == (lease.claim.total > self.budgets[device])

    def _one(self, number: int, wanted: str) -> str | None:
        """A replica in some state, if there is one."""
        there = [replica for replica, state in self.states.items() if state == wanted]
        return there[number % len(there)] if there else None

    def _gone(self, replica: str) -> None:
        del self.wanted[replica]
        self.states.pop(replica, None)

    # --- what happens

    @rule(
        deployment=st.sampled_from(["ASR", "TTS"]),
        node=st.sampled_from(NODES),
        card=sizes,
        host=st.none() | sizes,
        context=st.integers(0, GIB),
        free=st.none() | st.none() | st.integers(0, 30 * GIB),
    )
    def come(
        self,
        deployment: str,
        node: str,
        card: int,
        host: int | None,
        context: int,
        free: int | None,
    ) -> None:
        self.number += 1
        replica = f"{deployment}#{self.number}"
        claims = {(node, "cuda:0"): Claim(context=context, weights=card)}
        if host is not None:
            claims[node, "host"] = Claim(host=context, weights=host)
        wanted = tuple(
            Lease(replica, deployment, device, claim, self.number, f"actor {self.number}")
            for device, claim in claims.items()
        )
        self.wanted[replica] = wanted
        self._ask(wanted, {} if free is None else {(node, "cuda:0"): free})

    @precondition(lambda self: self.wanted)
    @rule(number=pick)
    def ask_again(self, number: int) -> None:
        replica = list(self.wanted)[number % len(self.wanted)]
        wanted = self.wanted[replica]
        if self.states.get(replica) in ("loading", "serving"):
            before = self.ledger.leases
            assert self.ledger.reserve(wanted, dict.fromkeys(DEVICES, 0)) is None
            assert self.ledger.leases == before
        else:
            self._ask(wanted, {})

    @precondition(lambda self: self._one(0, "loading"))
    @rule(number=pick, part=st.sampled_from([0, 0.5, 0.9, 1, 1.2]))
    def measure(self, number: int, part: float) -> None:
        replica = self._one(number, "loading")
        assert replica is not None
        for lease in self.wanted[replica]:
            key = (lease.deployment, sort(lease.device))
            size = round(lease.claim.total * part)
            if size > lease.claim.total:
                with pytest.raises(LeaseExceeded):
                    self.ledger.measured(replica, lease.device, size)
                self.overruns[key] = size
                self.seen["exceeded"] += 1
                self.die(replica)  # as a replica does
                return
            self.ledger.measured(replica, lease.device, size)
            self.overruns.pop(key, None)
        self.states[replica] = "serving"

    @precondition(lambda self: self._one(0, "serving"))
    @rule(number=pick)
    def park(self, number: int) -> None:
        replica = self._one(number, "serving")
        assert replica is not None
        self.ledger.park(replica)
        self.states[replica] = "parked"

    @precondition(lambda self: self._one(0, "parked"))
    @rule(number=pick, free=st.none() | st.integers(0, 16 * GIB))
    def come_back(self, number: int, free: int | None) -> None:
        replica = self._one(number, "parked")
        assert replica is not None
        wanted = self.wanted[replica]
        self._ask(wanted, {} if free is None else {wanted[0].device: free})
        self.seen[f"came back: {self.states[replica] == 'loading'}"] += 1

    @precondition(lambda self: self.wanted)
    @rule(number=pick)
    def crash(self, number: int) -> None:
        self.die(list(self.wanted)[number % len(self.wanted)])

    def die(self, replica: str) -> None:
        self.ledger.release(replica)
        self._gone(replica)

    @rule()
    def restart(self) -> None:
        stored = pickle.dumps(self.ledger.leases)
        self.ledger = Ledger(self.clock)
        for lease in pickle.loads(stored):
            self.ledger.adopt(lease)
        for device, size in self.budgets.items():
            self.ledger.set_budget(device, size)
        for replica in self.states:  # they confirm what they have, as they knew it
            for lease in self.wanted[replica]:
                self.ledger.adopt(replace(lease, state="serving"))
        self.holds, self.overruns = {}, {}

    @rule(name=st.sampled_from(["vllm", "sd"]), lapses=st.sampled_from([True, True, False]))
    def hold(self, name: str, lapses: bool) -> None:
        self.ledger.hold(name)
        self.holds[name] = self.clock.now + HOLD_GRACE_S
        if lapses:
            self.clock.now += HOLD_GRACE_S

    @rule(name=st.sampled_from(["vllm", "sd"]))
    def unhold(self, name: str) -> None:
        self.ledger.unhold(name)
        self.holds.pop(name, None)

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(device=st.sampled_from(DEVICES), size=st.integers(3 * GIB, 20 * GIB))
    def budget_changes(self, device: Device, size: int) -> None:
        self._budget(device, size)

    @precondition(lambda self: len(self.budgets) == len(DEVICES))
    @rule(node=st.sampled_from(NODES))
    def node_leaves(self, node: str) -> None:
        self.ledger.forget_node(node)
        for replica, wanted in list(self.wanted.items()):
            if wanted[0].device[0] == node:
                self._gone(replica)
        self.budgets = {d: size for d, size in self.budgets.items() if d[0] != node}
        self.most = {d: size for d, size in self.most.items() if d[0] != node}

    # --- what always holds

    @invariant()
    def no_byte_is_over_budget(self) -> None:
        for device, size in self.budgets.items():
            leased = self.ledger.leased(device)
            assert leased == self._leased(device)
            assert leased <= self.most[device]
            self.most[device] = max(size, leased)  # once it is less, it stays less
            assert self.ledger.free(device) == size - leased

    @invariant()
    def every_lease_is_a_living_replicas(self) -> None:
        held = {(lease.replica, lease.device) for lease in self.ledger.leases}
        assert held == {
            (replica, lease.device) for replica in self.states for lease in self.wanted[replica]
        }
        assert self.ledger.owners.keys() <= self.wanted.keys()
        states = {lease.replica: lease.state for lease in self.ledger.leases}
        assert states == self.states

    @invariant()
    def who_holds_is_known(self) -> None:
        now = self.clock.now
        assert set(self.ledger.holds) == {n for n, lapses in self.holds.items() if lapses > now}

    def teardown(self) -> None:
        for replica in list(self.wanted):
            self.ledger.release(replica)
        assert (self.ledger.leases, self.ledger.waiting, self.ledger.owners) == ((), (), {})
        assert all(self.ledger.leased(device) == 0 for device in DEVICES)


def test_no_order_of_events_upsets_the_books() -> None:
    """Hypothesis looks for a short one."""
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def step(machine: LedgerMachine, random: Random) -> None:
    """Something happens, as often as it might."""
    number = random.randrange(1_000)
    free = random.choice([None, None, random.randrange(15 * GIB)])
    name = random.choice(["vllm", "sd"])
    events: list[tuple[int, Callable[[], None]]] = [
        (
            30,
            lambda: machine.come(
                random.choice(["ASR", "TTS"]),
                random.choice(NODES),
                random.randrange(6 * GIB),
                random.choice([None, random.randrange(6 * GIB)]),
                random.randrange(GIB),
                free,
            ),
        ),
        (20, lambda: machine.ask_again(number) if machine.wanted else None),
        (20, lambda: machine.crash(number) if machine.wanted else None),
        (8, lambda: machine.time_passes(random.uniform(0, 10))),
        (4, lambda: machine.hold(name, lapses=random.random() < 0.3)),
        (4, lambda: machine.unhold(name)),
        (8, lambda: machine.budget_changes(random.choice(DEVICES), random.randrange(20 * GIB))),
        (2, lambda: machine.restart()),
    ]
    if machine._one(0, "loading"):
        part = random.choice([*[random.uniform(0, 1)] * 9, 1.2])
        events.append((30, lambda: machine.measure(number, part)))
    if machine._one(0, "serving"):
        events.append((10, lambda: machine.park(number)))
    if machine._one(0, "parked"):
        events.append((10, lambda: machine.come_back(number, free)))
    if len(machine.budgets) == len(DEVICES):
        events.append((1, lambda: machine.node_leaves(random.choice(NODES))))
    random.choices([event for _, event in events], [often for often, _ in events])[0]()


def test_twelve_thousand_random_steps_leave_the_books_in_order() -> None:
    steps, seen = 0, Counter[str]()
    for seed in range(40):
        random, machine = Random(seed), LedgerMachine()
        machine.devices_are_found([random.randrange(20 * GIB) for _ in DEVICES])
        for _ in range(300):
            step(machine, random)
            machine.no_byte_is_over_budget()
            machine.every_lease_is_a_living_replicas()
            machine.who_holds_is_known()
            steps += 1
        machine.teardown()
        seen += machine.seen
    assert steps >= 10_000
    reasons = {"granted", "full", "unavailable", "held", "overrun", "unknown"}
    happened = reasons | {"exceeded", "came back: True", "came back: False"}
    assert all(seen[event] >= 100 for event in happened), seen
