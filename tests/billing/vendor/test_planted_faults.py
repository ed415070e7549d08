"""Every planted fault is found, and nothing else is (V1)."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TransactionTestCase

from billing.models import BillLine, Finding, VendorBill
from billing.vendor import landing, matching
from inventory.models import ProviderAccount
from portal.local.focus_bill import FOUR_FAULTS, Fault, WrittenBill, write_focus_bill
from tests.billing.vendor.fleet import (
    LATER,
    MONTH,
    START,
    at,
    classes,
    make_on_demand_node,
    make_price,
    make_run,
)
from tests.factories import make_account, make_fleet


def small_fleet() -> ProviderAccount:
    """Two machines of a commitment and two on demand, with odd starts and ends."""
    account = make_account(account_id="123456789012")
    make_price(price="98.32")
    fleet = make_fleet(account=account, nodes=3, payment="hourly", reservation_id="cr-0a1b2c3d")
    make_run(node=fleet.nodes[0], start=at(2, 9), end=at(9, 9))
    make_run(node=fleet.nodes[0], start=at(10, 9, 0, 7), end=at(14, 17, 46, 20))  # the same node again
    make_run(node=fleet.nodes[1], start=at(3, 12, 30), end=None)
    make_run(node=make_on_demand_node(account=account), start=at(5, 8, 12, 13), end=at(6, 1, 1, 1))
    make_run(node=make_on_demand_node(account=account), start=START - timedelta(days=3), end=at(4))
    return account


def write_and_reconcile(
    account: ProviderAccount, *, faults: tuple[Fault, ...] = (), now: datetime = LATER, seed: int = 1
) -> tuple[WrittenBill, int]:
    file = io.BytesIO()
    written = write_focus_bill(account=account, month=MONTH, faults=faults, file=file, seed=seed)
    bill = landing.land(
        account_id=account.pk, month=MONTH, file=file, file_name="bill.csv", actor=None, now=now
    )
    matching.classify(bill_id=bill.pk, now=now)
    return written, bill.pk


def assert_exactly_found(account: ProviderAccount, written: WrittenBill, bill_id: int) -> None:
    """Lines, findings and money: what was planted, no more and no less."""
    wrong = {
        (line.ordinal, line.line_class)
        for line in BillLine.objects.filter(bill_id=bill_id).exclude(
            line_class__in=["matched", "within_tolerance", "ancillary", "commitment", "commitment_unused"]
        )
    }
    assert wrong == {(number, found.fault.value) for found in written.planted for number in found.lines}
    found = {
        (finding.finding_class, finding.resource_id): finding
        for finding in Finding.objects.filter(account=account)
    }
    planted = {(fault.fault.value, fault.resource_id): fault.amount for fault in written.planted}
    assert found.keys() == planted.keys()
    for name, finding in found.items():
        # the bill's hours have six decimals: the finding says what is exact, to less than a cent
        assert abs(finding.amount - planted[name]) < Decimal("0.01")
    assert all(finding.material for finding in found.values())
    totals = matching.class_totals(VendorBill.objects.get(pk=bill_id))
    assert sum(cost for _name, _lines, cost in totals) == written.total
    assert sum(lines for _name, lines, _cost in totals) == written.lines


@pytest.mark.django_db(transaction=True)
def test_a_bill_without_faults_has_no_findings() -> None:
    account = small_fleet()
    written, bill_id = write_and_reconcile(account)
    assert_exactly_found(account, written, bill_id)
    assert set(classes(VendorBill.objects.get())) == {"matched", "ancillary", "commitment_unused"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(5))
def test_the_four_faults_of_the_demo_are_four_findings(seed: int) -> None:
    account = small_fleet()
    written, bill_id = write_and_reconcile(account, faults=FOUR_FAULTS, seed=seed)
    assert len(written.planted) == 4
    assert_exactly_found(account, written, bill_id)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("payment", ["monthly", "upfront"])
def test_machines_that_the_commitment_pays_for_match_at_no_cost(payment: str) -> None:
    account = make_account()
    fleet = make_fleet(account=account, nodes=2, payment=payment, reservation_id="res-7")
    make_run(node=fleet.nodes[0], start=at(2, 9), end=at(9, 9, 30))
    written, bill_id = write_and_reconcile(account)
    assert_exactly_found(account, written, bill_id)
    fees = BillLine.objects.filter(bill_id=bill_id, line_class="commitment")
    # the upfront fee was billed when the commitment began, long before this month
    assert [fee.cost for fee in fees] == ([Decimal(2 * 720 * 16)] if payment == "monthly" else [])


_moments = st.integers(min_value=-5 * 86400, max_value=30 * 86400 - 3 * 3600)
_runs = st.tuples(_moments, st.integers(min_value=3600, max_value=20 * 86400))


class PlantedFaults(TransactionTestCase):
    """Recall and precision over generated fleets."""

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        runs=st.lists(_runs, min_size=4, max_size=7),
        committed=st.lists(st.booleans(), min_size=7, max_size=7),
        price=st.decimals(min_value=Decimal("0.5"), max_value=Decimal("120"), places=4),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=4),
        seed=st.integers(min_value=0, max_value=1000),
    )
    def test_recall_and_precision_are_whole(
        self,
        runs: list[tuple[int, int]],
        committed: list[bool],
        price: Decimal,
        faults: list[Fault],
        seed: int,
    ) -> None:
        account = make_account()
        make_price(price=str(price))
        fleet = make_fleet(account=account, nodes=len(runs), payment="hourly", reservation_id="cr-1")
        for number, (start, length) in enumerate(runs):
            begin = START + timedelta(seconds=start)
            node = fleet.nodes[number] if committed[number] else make_on_demand_node(account=account)
            make_run(node=node, start=begin, end=begin + timedelta(seconds=length))
        try:
            written, bill_id = write_and_reconcile(account, faults=tuple(faults), seed=seed)
        except ValueError:
            return  # no machine in the month is fit for one of the faults
        assert_exactly_found(account, written, bill_id)
