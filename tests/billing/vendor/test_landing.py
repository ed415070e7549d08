"""Landing: all rows or none, as they came, once; a restated bill is the next snapshot (V2)."""

from __future__ import annotations

import io
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from django.db import IntegrityError, ProgrammingError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TransactionTestCase

from billing.models import BillLine, BillRow, VendorBill
from billing.vendor import landing, matching
from billing.vendor.csv_file import BadBillFile
from portal.accounts.models import Event
from portal.common.errors import InvalidInput, NotFound
from tests.billing.vendor.fleet import COLUMNS, LATER, MONTH, at, csv_file, hours, land, reconcile, row
from tests.billing.vendor.test_focus_reader import SAMPLE, needs_sample
from tests.concurrency import race
from tests.factories import make_account

pytestmark = pytest.mark.django_db(transaction=True)


def test_rows_are_kept_as_they_came_with_what_they_mean_beside_them() -> None:
    account = make_account()
    bill = land(
        account,
        [
            row(ResourceId="i-1", BilledCost="0.0000000000000000000000000001", Tags='{"a\\tb": "ü"}'),
            row(ResourceId="i-2", ChargeDescription='says "hi",\nand\ttabs \\ back', PricingUnit="Seconds"),
        ],
    )
    assert (bill.month, bill.snapshot, bill.line_count, bill.format) == (MONTH, 1, 2, "FOCUS 1.2")
    assert bill.total == Decimal("16.0000000000000000000000000001")
    assert bill.columns == list(COLUMNS)
    first, second = BillLine.objects.order_by("ordinal")
    assert str(first.cost) == "1E-28"
    assert first.tags == {"a\tb": "ü"}
    assert first.raw["BilledCost"] == "0.0000000000000000000000000001"
    assert second.description == 'says "hi",\nand\ttabs \\ back'
    assert second.raw["ChargeDescription"] == second.description
    assert second.hours == Decimal("0.000277777778")
    assert second.period is not None
    assert second.period.lower == at(2)
    event = Event.objects.get(kind="vendor_bill.landed")
    assert (event.subject_id, event.after["lines"]) == (bill.uid, 2)


def test_the_same_file_again_changes_nothing_and_says_so() -> None:
    account = make_account()
    rows = hours(at(2), at(3), ResourceId="i-1")
    first = land(account, rows)
    again = land(account, rows)
    assert again == first
    assert (first.already_landed, again.already_landed) == (False, True)
    assert (VendorBill.objects.count(), BillLine.objects.count(), BillRow.objects.count()) == (1, 24, 24)
    assert Event.objects.filter(kind="vendor_bill.landed").count() == 1
    # also when it is an old snapshot's file
    land(account, rows[:3])
    assert land(account, rows).state == VendorBill.State.REPLACED
    assert VendorBill.objects.count() == 2


def test_a_restated_bill_replaces_the_snapshot_and_keeps_its_lines() -> None:
    account = make_account()
    first = land(account, [row(ResourceId="i-1")])
    second = land(account, [row(ResourceId="i-1"), row(ResourceId="i-2")])
    first.refresh_from_db()
    assert (first.snapshot, first.state) == (1, VendorBill.State.REPLACED)
    assert (second.snapshot, second.state) == (2, VendorBill.State.LANDED)
    assert BillLine.objects.filter(bill=first).count() == 1
    # other accounts and months are left alone
    other = land(make_account(), [row(ResourceId="i-1")])
    assert other.snapshot == 1


def test_a_bad_line_stores_nothing() -> None:
    account = make_account()
    before = land(account, [row(ResourceId="i-1")])
    with pytest.raises(BadBillFile) as refused:
        land(account, [*hours(at(2), at(12), ResourceId="i-1"), row(BilledCost="NaN")])
    assert str(refused.value) == "Line 242, BilledCost: “NaN” is no number such as 1234.56."
    assert (VendorBill.objects.count(), BillLine.objects.count(), BillRow.objects.count()) == (1, 1, 1)
    before.refresh_from_db()
    assert before.state == VendorBill.State.LANDED
    assert Event.objects.filter(kind="vendor_bill.landed").count() == 1


def test_another_accounts_bill_is_refused() -> None:
    account = make_account(account_id="123456789012")
    land(account, [row()])
    land(account, [row(BillingAccountId="999", SubAccountId="123456789012")])  # below a payer account
    file = csv_file([row(), row(BillingAccountId="999")])
    with pytest.raises(BadBillFile, match="Line 3, BillingAccountId: The line is of account 999"):
        landing.land(account_id=account.pk, month=MONTH, file=file, file_name="x", actor=None, now=LATER)
    assert VendorBill.objects.count() == 2


def test_the_month_is_the_first_rows_unless_said() -> None:
    account = make_account()
    file = csv_file([row()])
    bill = landing.land(
        account_id=account.pk, month=None, file=file, file_name="b.csv", actor=None, now=LATER
    )
    assert bill.month == MONTH


def test_the_bills_currency_is_that_of_most_lines() -> None:
    bill = land(
        make_account(),
        [row(BilledCost="5", BillingCurrency="EUR"), row(ResourceId="a"), row(ResourceId="b")],
    )
    assert (bill.currency, bill.total) == ("USD", Decimal(32))


def test_what_cannot_be_landed_is_refused_before_anything_is_read() -> None:
    with pytest.raises(NotFound):
        landing.land(account_id=0, month=MONTH, file=io.BytesIO(), file_name="x", actor=None, now=LATER)
    with pytest.raises(InvalidInput) as refused:
        land(make_account(), [row()], header_total=Decimal("NaN"))
    assert refused.value.field == "header_total"
    assert not VendorBill.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda: BillLine.objects.update(cost=1),
        lambda: BillLine.objects.all().delete(),
        lambda: BillRow.objects.update(text="x"),
        lambda: BillRow.objects.all()._raw_delete("default"),
        lambda: VendorBill.objects.update(sha256="x"),
        lambda: VendorBill.objects.update(total=1),
        lambda: VendorBill.objects.all()._raw_delete("default"),
    ],
)
def test_postgresql_lets_the_product_change_no_landed_row(change) -> None:  # type: ignore[no-untyped-def]
    land(make_account(), [row()])
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        change()


def test_one_live_bill_per_account_and_month() -> None:
    account = make_account()
    land(account, [row(ResourceId="a")])
    land(account, [row(ResourceId="b")])
    with pytest.raises(IntegrityError), transaction.atomic():
        VendorBill.objects.update(state=VendorBill.State.LANDED)


def test_two_at_once_make_two_snapshots_and_the_same_file_one_bill() -> None:
    account = make_account()
    files = [[row(ResourceId=f"i-{number % 4}")] for number in range(8)]  # each of four files twice
    race([lambda rows=rows: land(account, rows) for rows in files])
    bills = VendorBill.objects.order_by("snapshot")
    assert [bill.snapshot for bill in bills] == [1, 2, 3, 4]
    assert [bill.state for bill in bills] == ["replaced"] * 3 + ["landed"]


@needs_sample
def test_the_official_sample_lands_and_its_classes_add_up(tmp_path: Path) -> None:
    account = make_account()
    with SAMPLE.open("rb") as file:
        bill = landing.land(
            account_id=account.pk, month=None, file=file, file_name=SAMPLE.name, actor=None, now=LATER
        )
    matching.classify(bill_id=bill.pk, now=LATER)
    assert (f"{bill.month:%Y-%m}", bill.line_count) == ("2024-09", 1000)
    totals = matching.class_totals(bill)
    assert sum(cost for _name, _lines, cost in totals) == bill.total == Decimal("20.52022672899")
    found = {name: lines for name, lines, _cost in totals}
    assert found["correction"] == 2  # two adjustments
    assert found["credit"] == 13  # one of the category, twelve usage lines below zero
    assert found["orphan_unknown"] >= 26  # machines that nobody leased here
    assert found["ancillary"] > 800


wild = st.builds(
    lambda digits, places: f"{Decimal(digits).scaleb(-places):f}",
    st.integers(-(10**24), 10**24),
    st.integers(0, 28),
)
categories = st.sampled_from(["Usage", "Purchase", "Tax", "Credit", "Adjustment"])
currencies = st.sampled_from(["USD", "USD", "USD", "EUR"])
units = st.sampled_from(["Hours", "GB", "", "Wombats", "GPU-Hours", "vCPU-Hours", "Seconds"])
resources = st.sampled_from(["", "i-1", "i-2", "arn:aws:ec2:::instance/i-1"])


class ClassesAddUp(TransactionTestCase):
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(wild, categories, currencies, units, resources, wild, st.integers(0, 30)),
            min_size=1,
            max_size=25,
        )
    )
    def test_whatever_the_bill_says_its_classes_sum_to_it(
        self, lines: list[tuple[str, str, str, str, str, str, int]]
    ) -> None:
        account = make_account()
        rows = [
            row(
                BilledCost=cost,
                ChargeCategory=category,
                BillingCurrency=currency,
                PricingUnit=unit,
                ResourceId=resource,
                PricingQuantity=quantity,
                ChargePeriodStart=at(1, start % 24).isoformat(),
                ChargePeriodEnd=at(3, start % 24).isoformat(),
            )
            for cost, category, currency, unit, resource, quantity, start in lines
        ]
        bill = reconcile(account, rows)
        totals = matching.class_totals(bill)
        assert sum(count for _name, count, _cost in totals) == len(rows)
        assert all(name in BillLine.Class.values for name, _count, _cost in totals)
        exact = sum(
            (Fraction(cost) for cost, _c, currency, *_rest in lines if currency == bill.currency), Fraction(0)
        )
        assert sum((Fraction(cost) for _name, _count, cost in totals), Fraction(0)) == exact
        assert Fraction(bill.total) == exact
