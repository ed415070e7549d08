"""Approval: no open material finding, what is posted, and how the accrual clears (V4, V5)."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from billing import ledger
from billing.models import Entry, Finding, LedgerAccount, UpstreamAccrual, VendorBill
from billing.vendor import accrual, approval, audit, findings, matching, postings
from inventory.models import CommitmentDelivery, ProviderAccount
from portal.accounts.models import Event
from portal.common.errors import NotFound
from tests.billing.vendor.fleet import (
    LATER,
    MONTH,
    at,
    hour,
    hours,
    land,
    make_on_demand_node,
    make_price,
    make_run,
    reconcile,
    row,
)
from tests.concurrency import race
from tests.factories import make_account, make_fleet, make_user

pytestmark = pytest.mark.django_db(transaction=True)

Kind = LedgerAccount.Kind


def on_demand() -> ProviderAccount:
    """One machine on demand for ten hours at $16."""
    account = make_account()
    make_price(price="16")
    make_run(node=make_on_demand_node(account=account), start=at(2), end=at(2, 10), provider_id="i-1")
    return account


def balances(account: ProviderAccount, currency: str = "USD") -> dict[str, Decimal]:
    found = {
        kind.value: ledger.balance(kind, currency=currency, provider_account=account)
        for kind in (Kind.UPSTREAM_ACCRUED, Kind.UPSTREAM_COST, Kind.DISPUTED, Kind.ROUNDING, Kind.PAYABLE)
    }
    return {kind: amount for kind, amount in found.items() if amount}


def settle(account: ProviderAccount, finding_class: str, decision: str) -> Finding:
    finding = Finding.objects.get(account=account, finding_class=finding_class)
    return findings.settle(finding_uid=finding.uid, decision=decision, note="because", actor=None, now=LATER)


def approve(bill: VendorBill, **options: Any) -> VendorBill:
    return approval.approve(bill_uid=bill.uid, actor=None, now=LATER, **options)


def assert_audit_is_clean() -> None:
    assert {check.id: check.outcome().examples for check in audit.CHECKS} == {
        name: [] for name in ("V1", "V2", "V3", "V4", "V5")
    }


def test_a_right_bill_is_approved_and_clears_the_accrual() -> None:
    account = on_demand()
    accrual.accrue_month(month=MONTH, now=LATER)
    assert balances(account) == {"upstream_cost": 160, "upstream_accrued": -160}
    bill = reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1"))
    actor = make_user()
    bill = approval.approve(bill_uid=bill.uid, actor=actor, now=LATER)
    assert (bill.state, bill.approved_by, bill.approved_at) == ("approved", actor, LATER)
    assert balances(account) == {"upstream_cost": 160, "payable": -160}
    (month,) = accrual.clearing()
    assert (month.month, month.accrued, month.billed, month.rest) == (MONTH, 160, 160, 0)
    assert Event.objects.filter(kind="vendor_bill.approved", subject_id=bill.uid).count() == 1
    assert_audit_is_clean()


def test_approving_twice_or_two_at_once_posts_once() -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1"))
    results = race([lambda: approve(bill) for _number in range(4)])
    assert [result.state for result in results] == ["approved"] * 4
    approve(bill)
    assert balances(account) == {"upstream_cost": 160, "payable": -160}
    assert Entry.objects.count() == 2
    assert Event.objects.filter(kind="vendor_bill.approved").count() == 1


def test_a_landed_bill_is_classified_before_it_is_approved() -> None:
    account = on_demand()
    bill = land(account, hours(at(2), at(2, 10), ResourceId="i-1"))
    assert approve(bill).state == "approved"


def test_an_open_material_finding_refuses_approval() -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 12), ResourceId="i-1"))
    with pytest.raises(approval.OpenFindings) as refused:
        approve(bill)
    finding = Finding.objects.get()
    assert refused.value.extra["findings"] == [finding.uid]
    bill.refresh_from_db()
    assert (bill.state, Entry.objects.count(), UpstreamAccrual.objects.count()) == ("classified", 0, 0)
    settle(account, "orphan_tail", "accept")
    assert approve(bill).state == "approved"
    assert_audit_is_clean()


def test_the_invoices_total_must_tie_out_or_be_accepted() -> None:
    account = on_demand()
    rows = hours(at(2), at(2, 10), ResourceId="i-1")
    bill = reconcile(account, rows, header_total=Decimal("170"))
    with pytest.raises(approval.OpenFindings):
        approve(bill)
    settle(account, "invoice_total_mismatch", "accept")
    approve(bill)
    assert balances(account) == {"upstream_cost": 170, "payable": -170}


def test_rounding_to_the_invoices_cents_goes_to_rounding() -> None:
    account = on_demand()
    rows = hours(at(2), at(2, 10), ResourceId="i-1", BilledCost="16.0000123456789012345")
    bill = reconcile(account, rows, header_total=Decimal("160.00"))
    approve(bill)
    assert balances(account) == {"upstream_cost": 160, "payable": -160}
    (month,) = accrual.clearing()
    assert month.rest == 0


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ("accept", {"upstream_cost": Decimal(192), "payable": Decimal(-192)}),
        (
            "dispute",
            {"upstream_cost": Decimal(160), "disputed": Decimal(32), "payable": Decimal(-192)},
        ),
    ],
)
def test_what_was_decided_says_where_the_money_goes(decision: str, expected: dict[str, Decimal]) -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 12), ResourceId="i-1"))
    settle(account, "orphan_tail", decision)
    approve(bill)
    assert balances(account) == expected
    other = "dispute" if decision == "accept" else "accept"
    settle(account, "orphan_tail", other)  # the provider gave in, or did not
    settle(account, "orphan_tail", decision)
    assert balances(account) == expected
    with pytest.raises(findings.CannotSettle):
        settle(account, "orphan_tail", "reopen")
    assert_audit_is_clean()


def test_a_wrong_price_clears_only_what_was_agreed() -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1", BilledCost="18"))
    settle(account, "price_variance", "dispute")
    approve(bill)
    assert balances(account) == {"upstream_cost": 160, "disputed": 20, "payable": -180}
    assert accrual.clearing()[0].rest == 0


def test_tax_storage_and_credits_are_cost_without_an_accrual() -> None:
    account = on_demand()
    bill = reconcile(
        account,
        [
            *hours(at(2), at(2, 10), ResourceId="i-1"),
            row(ResourceId="vol", PricingUnit="GB", ServiceCategory="Storage", BilledCost="7.25"),
            row(ResourceId="", ChargeCategory="Tax", BilledCost="11"),
            row(ResourceId="", ChargeCategory="Credit", BilledCost="-3"),
        ],
    )
    approve(bill)
    assert balances(account) == {"upstream_cost": Decimal("175.25"), "payable": Decimal("-175.25")}


def test_another_currency_is_posted_in_its_own() -> None:
    account = on_demand()
    rows = [
        *hours(at(2), at(2, 10), ResourceId="i-1"),
        row(ResourceId="", BillingCurrency="EUR", BilledCost="7"),
    ]
    bill = reconcile(account, rows)
    settle(account, "fx", "accept")
    approve(bill)
    assert balances(account) == {"upstream_cost": 160, "payable": -160}
    assert balances(account, "EUR") == {"upstream_cost": 7, "payable": -7}


def test_a_replaced_bills_postings_are_reversed_when_the_next_is_approved() -> None:
    account = on_demand()
    first = reconcile(account, hours(at(2), at(2, 12), ResourceId="i-1"))
    settle(account, "orphan_tail", "dispute")
    approve(first)
    settle(account, "orphan_tail", "accept")
    second = reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1"))
    first.refresh_from_db()
    assert first.state == "replaced"
    assert balances(account)["payable"] == -192  # until the new one is approved
    with pytest.raises(matching.BillSettled):
        approve(first)
    approve(second)
    assert balances(account) == {"upstream_cost": 160, "payable": -160}
    assert accrual.clearing()[0].rest == 0
    assert_audit_is_clean()


def test_an_approved_bill_keeps_its_classes() -> None:
    account = on_demand()
    bill = approve(reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1")))
    with pytest.raises(matching.BillSettled):
        matching.classify(bill_id=bill.pk, now=LATER)
    with pytest.raises(NotFound):
        matching.classify(bill_id=0, now=LATER)
    with pytest.raises(NotFound):
        approval.approve(bill_uid="bil_none", actor=None, now=LATER)


def test_what_was_accrued_and_not_billed_stays_listed() -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 8), ResourceId="i-1"))
    settle(account, "leased_not_billed", "accept")
    approve(bill)
    (month,) = accrual.clearing(account_id=account.pk)
    assert (month.accrued, month.billed, month.rest) == (160, 128, 32)
    assert balances(account)["upstream_accrued"] == -32
    assert_audit_is_clean()


# --- accrual --------------------------------------------------------------------------------------


def test_commitments_accrue_what_is_held_and_machines_what_they_ran() -> None:
    account = on_demand()
    fleet = make_fleet(account=account, nodes=2, cost_per_node_hour="10", payment="monthly")
    make_run(node=fleet.nodes[0], start=at(3), end=at(4))  # its hours are in the commitment
    later = make_fleet(account=account, nodes=3, cost_per_node_hour="1", payment="hourly")
    CommitmentDelivery.objects.create(commitment=later.commitment, nodes=1, accepted_from=at(29))
    CommitmentDelivery.objects.create(commitment=later.commitment, nodes=2, accepted_from=at(30))
    (posted,) = accrual.accrue_month(month=MONTH, now=LATER)
    assert posted.amount == 160 + 2 * 720 * 10 + 48 + 2 * 24
    assert {(line["kind"], line["hours"], line["amount"]) for line in posted.breakdown} == {
        ("commitment", "1440", "14400.00000000"),
        ("commitment", "96", "96.00000000"),
        ("machine", "10", "160.00000000"),
    }


def test_accruing_again_posts_only_what_changed() -> None:
    account = on_demand()
    assert len(accrual.accrue_month(month=MONTH, now=at(2, 4))) == 1  # the month is under way
    assert balances(account) == {"upstream_cost": 64, "upstream_accrued": -64}
    assert accrual.accrue_month(month=MONTH, now=at(2, 4)) == []
    (second,) = accrual.accrue_month(month=MONTH, now=LATER)
    assert (second.revision, second.amount, second.expected) == (2, 96, 160)
    results = race([lambda: accrual.accrue_month(month=MONTH, now=LATER) for _number in range(4)])
    assert results == [[], [], [], []]
    assert balances(account) == {"upstream_cost": 160, "upstream_accrued": -160}
    assert_audit_is_clean()


def test_nothing_is_accrued_before_the_month_or_for_nothing() -> None:
    make_account()
    assert accrual.accrue_month(month=date(2027, 1, 1), now=LATER) == []
    assert accrual.accrue_month(month=MONTH, now=LATER) == []
    assert not Entry.objects.exists()


def test_a_late_accrual_of_a_closed_month_lands_in_the_open_one() -> None:
    account = on_demand()
    ledger.close_period(month=MONTH, actor=None, now=LATER)
    (posted,) = accrual.accrue_month(month=MONTH, now=LATER)
    assert posted.entry.period.month == date(2026, 12, 1)
    assert posted.entry.effective_at.month == 11
    bill = approve(reconcile(account, hours(at(2), at(2, 10), ResourceId="i-1")))
    assert bill.entry is not None
    assert accrual.clearing()[0].rest == 0


def test_a_bill_without_cost_is_approved_without_an_entry() -> None:
    account = make_account()
    bill = approve(
        reconcile(account, [hour(at(2), ResourceId="free", BilledCost="0", ServiceCategory="Storage")])
    )
    assert (bill.state, bill.entry) == ("approved", None)
    assert_audit_is_clean()


def test_postgresql_refuses_an_open_finding_and_an_approved_bill_together() -> None:
    account = on_demand()
    bill = reconcile(account, hours(at(2), at(2, 12), ResourceId="i-1"))
    with pytest.raises(IntegrityError, match="V4"), transaction.atomic():
        VendorBill.objects.filter(pk=bill.pk).update(state="approved", approved_at=LATER)
    settle(account, "orphan_tail", "accept")
    approve(bill)
    with pytest.raises(IntegrityError, match="V4"), transaction.atomic():
        Finding.objects.update(state="open", settled_at=None)
    assert_audit_is_clean()


def test_an_absurd_bill_is_refused_by_the_ledger_and_changes_nothing() -> None:
    account = make_account()
    bill = reconcile(
        account, [row(ResourceId="vol", ServiceCategory="Storage", PricingUnit="GB", BilledCost="9" * 30)]
    )
    with pytest.raises(postings.TooLarge):
        approve(bill)
    bill.refresh_from_db()
    assert (bill.state, Entry.objects.count()) == ("classified", 0)
