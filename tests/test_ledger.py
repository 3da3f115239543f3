"""The ledger: who is let in, who is not and what it is told, and what is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_clock import Clock

from runtime.errors import LeaseExceeded
from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB
from runtime.memory.ledger import HOLD_GRACE_S, Device, Lease, Ledger, Refusal

CARD: Device = ("node", "cuda:0")
HOST: Device = ("node", "host")
FAR: Device = ("far", "cuda:0")


def make(clock: Clock | None = None, card: float = 10, host: float = 10) -> Ledger:
    """A ledger with two devices; budgets in GiB."""
    ledger = Ledger(clock or Clock())
    ledger.set_budget(CARD, round(card * GIB))
    ledger.set_budget(HOST, round(host * GIB))
    return ledger


def lease(
    replica: str = "TTS#1", gib: float = 4, device: Device = CARD, context: float = 0
) -> Lease:
    """A lease of ``gib``, of which ``context`` is left while its replica is parked."""
    claim = Claim(context=round(context * GIB), weights=round((gib - context) * GIB))
    return Lease(replica, replica.partition("#")[0], device, claim, 7, f"actor of {replica}")


def refused(refusal: Refusal | None) -> Refusal:
    assert refusal is not None
    return refusal


# --- room --------------------------------------------------------------------


def test_leases_are_granted_up_to_the_budget_and_not_a_byte_beyond() -> None:
    ledger = make()
    assert ledger.reserve([lease("TTS#1", 6)]) is None
    assert ledger.reserve([lease("TTS#2", 4)]) is None
    assert (ledger.leased(CARD), ledger.free(CARD)) == (10 * GIB, 0)
    ledger.set_budget(CARD, ledger.budgets[CARD] + 100)
    hundred = replace(lease("ASR#1"), claim=Claim(weights=101))
    assert refused(ledger.reserve([hundred])).reason == "full"
    assert ledger.reserve([replace(hundred, claim=Claim(weights=100))]) is None


def test_a_refusal_says_what_is_claimed_what_is_free_and_who_has_the_rest() -> None:
    ledger = make()
    ledger.reserve([lease("ASR#1", 3)])
    ledger.reserve([lease("TTS#1", 4)])
    refusal = refused(ledger.reserve([lease("TTS#2", 4)]))
    assert refusal == Refusal(
        "full",
        "TTS claims 4.00 GiB of cuda:0, and 3.00 of its budget of 10.00 are free. "
        "Leases: ASR 3.00, TTS 4.00.",
    )


def test_only_what_will_never_fit_is_refused_for_good() -> None:
    ledger = make()
    assert refused(ledger.reserve([lease("TTS#1", 10.5)])).lasting
    assert "Nobody holds any of it." in refused(ledger.reserve([lease("TTS#1", 10.5)])).message
    ledger.reserve([lease("TTS#2", 10)])
    assert not refused(ledger.reserve([lease("TTS#3", 10)])).lasting


def test_a_replica_gets_all_its_devices_or_none() -> None:
    ledger = make(host=1)
    both = [lease("TTS#1", 4), lease("TTS#1", 2, HOST)]
    assert refused(ledger.reserve(both)).message.startswith("TTS claims 2.00 GiB of host")
    assert ledger.leases == ()
    ledger.set_budget(HOST, 2 * GIB)
    assert ledger.reserve(both) is None
    assert (ledger.leased(CARD), ledger.leased(HOST)) == (4 * GIB, 2 * GIB)


def test_asking_again_changes_nothing_even_if_there_is_no_room_any_more() -> None:
    ledger = make()
    ledger.reserve([lease()])
    ledger.measured("TTS#1", CARD, 3 * GIB)
    before = ledger.leases
    ledger.set_budget(CARD, 0)
    ledger.hold("vllm")
    assert ledger.reserve([lease()], {CARD: 0}) is None
    assert ledger.leases == before


def test_a_device_that_nobody_told_of_has_nothing_to_lease() -> None:
    refusal = refused(make().reserve([lease(device=FAR)]))
    assert (refusal.reason, refusal.lasting) == ("unknown", False)


def test_after_a_budget_was_cut_leases_stay_and_nothing_is_added() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#1", 8)])
    ledger.set_budget(CARD, 5 * GIB)
    assert (ledger.leased(CARD), ledger.free(CARD)) == (8 * GIB, -3 * GIB)
    refusal = refused(ledger.reserve([lease("TTS#2", 1)]))
    assert "and 0.00 of its budget of 5.00 are free" in refusal.message
    ledger.release("TTS#1")
    assert ledger.reserve([lease("TTS#2", 1)]) is None


# --- what is truly available -------------------------------------------------


def test_what_the_device_has_counts_beside_the_budget() -> None:
    ledger = make()
    refusal = refused(ledger.reserve([lease(gib=4)], {CARD: 3 * GIB}))
    assert (refusal.reason, refusal.lasting) == ("unavailable", False)
    assert "which has 3.00 available" in refusal.message
    assert ledger.reserve([lease(gib=4)], {CARD: 4 * GIB}) is None


def test_what_is_unknown_or_of_another_device_refuses_nobody() -> None:
    ledger = make()
    assert ledger.reserve([lease("TTS#1")], {}) is None
    assert ledger.reserve([lease("TTS#2")], {HOST: 0}) is None


def test_what_replicas_that_load_have_not_taken_yet_is_promised_to_them() -> None:
    ledger = make()
    ledger.reserve([lease("ASR#1", 3)])
    refusal = refused(ledger.reserve([lease("TTS#1", 4)], {CARD: 6 * GIB}))
    assert "3.00 of them promised" in refusal.message
    assert "Leases: ASR 3.00." in refusal.message
    ledger.measured("ASR#1", CARD, 3 * GIB)
    assert ledger.reserve([lease("TTS#1", 4)], {CARD: 6 * GIB}) is None


# --- measuring ---------------------------------------------------------------


def test_a_replica_serves_once_it_has_measured_no_more_than_it_claimed() -> None:
    ledger = make()
    ledger.reserve([lease()])
    assert not ledger.still
    ledger.measured("TTS#1", CARD, 4 * GIB)
    (held,) = ledger.leases
    assert (held.state, held.measured, held.peak) == ("serving", 4 * GIB, 4 * GIB)
    assert ledger.still


def test_more_than_was_claimed_is_an_error_with_both_figures_and_keeps_the_lease() -> None:
    ledger = make()
    ledger.reserve([lease()])
    with pytest.raises(LeaseExceeded, match=r"TTS measured 4\.50 GiB on cuda:0 .*claimed 4\.00"):
        ledger.measured("TTS#1", CARD, 4 * GIB + GIB // 2)
    (held,) = ledger.leases
    assert (held.state, held.bytes) == ("loading", 4 * GIB)


def overrun(ledger: Ledger, size: float = 5) -> None:
    """TTS claims 4 GiB, measures more, and is gone."""
    ledger.reserve([lease("TTS#1", 4), lease("TTS#1", 1, HOST)])
    with pytest.raises(LeaseExceeded):
        ledger.measured("TTS#1", CARD, round(size * GIB))
    ledger.release("TTS#1")


def test_who_measured_more_is_not_started_again_with_the_same_claim() -> None:
    ledger = make()
    overrun(ledger)
    refusal = refused(ledger.reserve([lease("TTS#2", 4), lease("TTS#2", 1, HOST)]))
    assert (refusal.reason, refusal.lasting) == ("overrun", True)
    assert "claims 4.00 GiB of cuda:0, and measured 5.00" in refusal.message
    assert ledger.reserve([lease("ASR#1", 4)]) is None, "others are"


def test_after_an_overrun_of_the_gpu_a_larger_claim_of_it_is_enough() -> None:
    ledger = make()
    overrun(ledger)
    assert ledger.reserve([lease("TTS#2", 5), lease("TTS#2", 1, HOST)]) is None


def test_a_good_figure_of_the_host_does_not_forgive_an_overrun_of_the_gpu() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#0", 1), lease("TTS#0", 1, HOST)])
    overrun(ledger)
    ledger.measured("TTS#0", HOST, GIB)
    assert refused(ledger.reserve([lease("TTS#2", 4)])).reason == "overrun"
    ledger.measured("TTS#0", CARD, GIB)
    assert ledger.reserve([lease("TTS#2", 4)]) is None


def test_a_peak_is_the_most_that_was_reported_and_strangers_report_nothing() -> None:
    ledger = make()
    ledger.reserve([lease()])
    for size in (2, 5, 3):
        ledger.report("TTS#1", CARD, size * GIB)
    ledger.report("TTS#9", CARD, GIB)
    assert [(held.replica, held.peak) for held in ledger.leases] == [("TTS#1", 5 * GIB)]


# --- parking -----------------------------------------------------------------


def test_a_parked_replica_counts_for_its_process_and_context_only() -> None:
    ledger = make()
    ledger.reserve([lease(gib=8, context=1)])
    ledger.park("TTS#1")
    assert ledger.leased(CARD) == GIB
    assert ledger.reserve([lease("ASR#1", 9)]) is None


def test_a_parked_replica_comes_back_if_the_rest_of_its_claim_fits() -> None:
    ledger = make()
    ledger.reserve([lease(gib=8, context=1)])
    ledger.park("TTS#1")
    ledger.reserve([lease("ASR#1", 3)])
    assert refused(ledger.reserve([lease(gib=8, context=1)])).reason == "full"
    assert [held.state for held in ledger.leases] == ["parked", "loading"]
    ledger.release("ASR#1")
    assert ledger.reserve([lease(gib=8, context=1)], {CARD: 7 * GIB}) is None
    assert (ledger.leased(CARD), ledger.waiting) == (8 * GIB, ())


# --- holds -------------------------------------------------------------------


def test_while_somebody_holds_nothing_new_is_leased() -> None:
    ledger = make()
    ledger.hold("vllm:8000")
    refusal = refused(ledger.reserve([lease()]))
    assert (refusal.reason, refusal.lasting) == ("held", False)
    assert "vllm:8000" in refusal.message
    ledger.unhold("vllm:8000")
    ledger.unhold("vllm:8000")
    assert ledger.reserve([lease()]) is None


def test_a_hold_lapses_unless_it_is_renewed() -> None:
    clock = Clock()
    ledger = make(clock)
    ledger.hold("one")
    clock.now += HOLD_GRACE_S - 0.1
    ledger.hold("two")
    assert ledger.holds == ("one", "two")
    clock.now += 0.1
    assert ledger.holds == ("two",)
    clock.now += HOLD_GRACE_S
    assert ledger.holds == ()
    assert ledger.reserve([lease()]) is None


# --- who waits, and who is gone ----------------------------------------------


def test_who_was_refused_waits_until_it_is_let_in_or_gone() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#1", 8)])
    for _ in range(3):
        ledger.reserve([lease("TTS#2", 4), lease("TTS#2", 1, HOST)])
    ledger.reserve([lease("ASR#1", 5)])
    assert [(w.replica, w.claim // GIB) for w in ledger.waiting] == [("TTS#2", 5), ("ASR#1", 5)]
    assert ledger.refusals == {"full": 2}, "counted once for each that waits"
    ledger.release("ASR#1")
    ledger.release("TTS#1")
    ledger.reserve([lease("TTS#2", 4), lease("TTS#2", 1, HOST)])
    assert ledger.waiting == ()


def test_those_that_wait_have_an_owner_too_so_that_their_death_is_seen() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#1", 8)])
    ledger.reserve([lease("TTS#2", 8)])
    assert ledger.owners == {"TTS#1": "actor of TTS#1", "TTS#2": "actor of TTS#2"}
    ledger.release("TTS#2")
    assert (ledger.owners.keys(), ledger.waiting) == ({"TTS#1"}, ())


def test_a_node_that_is_gone_takes_its_devices_its_leases_and_who_waited_there_along() -> None:
    ledger = make()
    ledger.set_budget(FAR, 10 * GIB)
    ledger.reserve([lease("TTS#1", 8)])
    ledger.reserve([lease("TTS#2", 8, FAR)])
    ledger.reserve([lease("TTS#3", 8, FAR)])
    ledger.forget_node("far")
    assert ledger.budgets.keys() == {CARD, HOST}
    assert ledger.owners.keys() == {"TTS#1"}


def test_a_release_is_of_all_devices_and_may_be_repeated() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#1", 4), lease("TTS#1", 2, HOST)])
    for _ in range(2):
        ledger.release("TTS#1")
    assert (ledger.leases, ledger.leased(CARD), ledger.leased(HOST)) == ((), 0, 0)


def test_a_restarted_ledger_takes_over_leases_and_keeps_what_it_knows_better() -> None:
    ledger = make()
    ledger.adopt(lease(gib=8))
    ledger.measured("TTS#1", CARD, 7 * GIB)
    ledger.adopt(lease(gib=8))
    assert [held.state for held in ledger.leases] == ["serving"]
    assert refused(ledger.reserve([lease("ASR#1", 3)])).reason == "full"


def test_who_would_live_below_a_floor_is_not_granted_what_is_there() -> None:
    ledger = make()
    wanted = [lease("a", 4)]
    refusal = refused(ledger.reserve(wanted, {CARD: 5 * GIB}, {CARD: 2 * GIB}))
    assert (refusal.reason, refusal.lasting) == ("unavailable", False)
    assert ledger.reserve(wanted, {CARD: 6 * GIB}, {CARD: 2 * GIB}) is None


def test_who_could_not_load_within_its_claim_is_not_granted_it_again() -> None:
    ledger = make()
    assert ledger.reserve([lease("TTS#1", 4)]) is None
    assert "needed more" in str(ledger.overran("TTS#1", CARD))
    ledger.release("TTS#1")
    refusal = refused(ledger.reserve([lease("TTS#2", 4)]))
    assert (refusal.reason, refusal.lasting) == ("overrun", True)
    assert ledger.reserve([lease("TTS#2", 5)]) is None


def test_a_replica_that_says_it_is_parked_is_believed_unless_it_loads() -> None:
    ledger = make()
    ledger.reserve([lease("TTS#1", 4)])
    ledger.parked_already("TTS#1")
    assert ledger.leases[0].state == "loading"
    ledger.measured("TTS#1", CARD, None)
    ledger.parked_already("TTS#1")
    assert ledger.leases[0].state == "parked"
