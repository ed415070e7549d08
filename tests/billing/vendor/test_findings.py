"""Findings: the same difference is the same finding; a restated bill re-opens only what changed (V3)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.models import BillLine, Finding
from billing.vendor import findings as settling
from billing.vendor import matching
from inventory.models import ProviderAccount
from portal.accounts.models import Event
from portal.common.errors import InvalidInput, NotFound
from tests.billing.vendor.fleet import LATER, at, findings, hour, hours, make_run, reconcile, row
from tests.factories import make_fleet, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def november() -> tuple[ProviderAccount, list[dict[str, str]]]:
    """A machine of ten hours, billed for three more and once twice, and a stranger."""
    fleet = make_fleet(nodes=1, payment="hourly")
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 10), provider_id="i-1")
    rows = [
        *hours(at(2), at(2, 13), ResourceId="i-1"),
        hour(at(2, 4), ResourceId="i-1"),
        *hours(at(3), at(3, 2), ResourceId="i-stranger"),
    ]
    return fleet.account, rows


def state_of(account: ProviderAccount) -> dict[str, tuple[str, Decimal]]:
    return {
        f"{finding.finding_class} {finding.resource_id}": (finding.state, finding.amount)
        for finding in findings(account, open_only=False)
    }


def decide(account: ProviderAccount, decision: str) -> None:
    settling.settle_all(
        finding_uids=[finding.uid for finding in findings(account)],
        decision=decision,
        note="agreed with the provider",
        actor=None,
        now=LATER,
    )


def test_one_difference_of_many_hours_is_one_finding() -> None:
    account, rows = november()
    bill = reconcile(account, rows)
    assert state_of(account) == {
        "orphan_tail i-1": ("open", Decimal(48)),
        "duplicate i-1": ("open", Decimal(16)),
        "orphan_unknown i-stranger": ("open", Decimal(32)),
    }
    tail = Finding.objects.get(finding_class="orphan_tail")
    assert tail.period is not None
    assert (tail.period.lower, tail.period.upper, tail.line_count) == (at(2, 10), at(2, 13), 3)
    assert [line.ordinal for line in tail.lines.order_by("ordinal")] == [12, 13, 14]
    assert "i-1" in tail.summary
    assert "$48.00" in tail.summary
    assert tail.bill == bill


def test_two_separate_intervals_are_two_findings() -> None:
    account, rows = november()
    reconcile(account, [*rows, hour(at(4), ResourceId="i-stranger")])
    assert Finding.objects.filter(finding_class="orphan_unknown").count() == 2


def test_running_again_changes_nothing() -> None:
    account, rows = november()
    bill = reconcile(account, rows)
    before = list(Finding.objects.order_by("pk").values())
    lines = list(BillLine.objects.order_by("pk").values())
    events = Event.objects.count()
    for _number in range(2):
        matching.classify(bill_id=bill.pk, now=LATER)
    assert list(Finding.objects.order_by("pk").values()) == before
    assert list(BillLine.objects.order_by("pk").values()) == lines
    assert Event.objects.count() == events


@pytest.mark.parametrize(("decision", "state"), [("accept", "accepted"), ("dispute", "disputed")])
def test_what_was_settled_stays_settled_while_it_is_the_same(decision: str, state: str) -> None:
    account, rows = november()
    reconcile(account, rows)
    decide(account, decision)
    # a restated bill with the lines in another order, and one more that is right
    bill = reconcile(account, [row(ResourceId="vol", ServiceCategory="Storage"), *reversed(rows)])
    assert bill.snapshot == 2
    assert {found for found, _amount in state_of(account).values()} == {state}
    assert all(finding.bill == bill for finding in Finding.objects.all())
    assert all(finding.line is not None and finding.line.bill == bill for finding in Finding.objects.all())


def test_a_restated_bill_reopens_only_what_changed_and_cures_what_is_gone() -> None:
    account, rows = november()
    reconcile(account, rows)
    decide(account, "accept")
    restated = [
        *hours(at(2), at(2, 14), ResourceId="i-1"),  # an hour more of the tail, no duplicate
        *hours(at(3), at(3, 2), ResourceId="i-stranger"),
    ]
    reconcile(account, restated)
    assert state_of(account) == {
        "orphan_tail i-1": ("open", Decimal(64)),
        "duplicate i-1": ("cured", Decimal(16)),
        "orphan_unknown i-stranger": ("accepted", Decimal(32)),
    }
    tail = Finding.objects.get(finding_class="orphan_tail")
    assert tail.settled_at is None
    assert "Open again" in tail.note
    assert "agreed with the provider" in tail.note  # what was said before is kept
    # and back: the cured one is open again, the same row
    reconcile(account, [*rows, row(ResourceId="vol", ServiceCategory="Storage")])
    assert state_of(account)["duplicate i-1"] == ("open", Decimal(16))
    assert Finding.objects.count() == 3


def test_what_we_correct_ourselves_is_cured_without_a_new_bill() -> None:
    fleet = make_fleet(nodes=1, payment="hourly", cost_per_node_hour="15.00")
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 2), provider_id="i-1")
    bill = reconcile(fleet.account, hours(at(2), at(2, 2), ResourceId="i-1"))
    assert state_of(fleet.account) == {"price_variance i-1": ("open", Decimal(2))}
    fleet.commitment.cost_per_node_hour = Decimal(16)
    fleet.commitment.save()
    matching.classify(bill_id=bill.pk, now=LATER)
    assert state_of(fleet.account) == {"price_variance i-1": ("cured", Decimal(2))}
    assert set(BillLine.objects.values_list("line_class", "finding")) == {("matched", None)}


def test_small_differences_are_found_and_not_material() -> None:
    fleet = make_fleet(nodes=1, payment="hourly")
    reconcile(fleet.account, [hour(at(2), ResourceId="i-free", BilledCost="0.01")])
    (finding,) = findings(fleet.account)
    assert not finding.material


def test_settling_records_who_why_and_when() -> None:
    account, rows = november()
    reconcile(account, rows)
    actor = make_user(email="finance@example.com")
    finding = findings(account)[0]
    settled = settling.settle(
        finding_uid=finding.uid, decision="dispute", note="ticket 17", actor=actor, now=LATER
    )
    assert (settled.state, settled.settled_by, settled.settled_at) == ("disputed", actor, LATER)
    assert settled.note == "2026-12-10 00:00 finance@example.com: ticket 17"
    event = Event.objects.get(kind="finding.disputed")
    assert (event.actor, event.subject_id, event.after["note"]) == (actor, finding.uid, "ticket 17")
    settling.settle(finding_uid=finding.uid, decision="dispute", note="again", actor=actor, now=LATER)
    assert Event.objects.filter(kind="finding.disputed").count() == 1  # the same decision says nothing new
    reopened = settling.settle(
        finding_uid=finding.uid, decision="reopen", note="more to say", actor=actor, now=LATER
    )
    assert (reopened.state, reopened.settled_at, reopened.settled_by) == ("open", None, None)


def test_what_cannot_be_settled_is_refused_and_changes_nothing() -> None:
    account, rows = november()
    reconcile(account, rows)
    first = findings(account)[0]
    with pytest.raises(InvalidInput) as refused:
        settling.settle(finding_uid=first.uid, decision="forget", note="x", actor=None, now=LATER)
    assert refused.value.field == "decision"
    with pytest.raises(InvalidInput) as refused:
        settling.settle(finding_uid=first.uid, decision="accept", note="  ", actor=None, now=LATER)
    assert refused.value.field == "note"
    with pytest.raises(NotFound):
        settling.settle_all(
            finding_uids=[first.uid, "fnd_none"], decision="accept", note="x", actor=None, now=LATER
        )
    reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1"))
    with pytest.raises(settling.CannotSettle):
        settling.settle(finding_uid=first.uid, decision="accept", note="x", actor=None, now=LATER)
    assert {state for state, _amount in state_of(account).values()} == {"cured"}
    assert not Event.objects.filter(kind__startswith="finding.").exists()
