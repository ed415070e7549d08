"""Which class a line gets, by which rule, with which arithmetic (notes: classes and tolerances)."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.models import BillLine, VendorBill
from billing.vendor import landing, matching
from inventory.models import ProviderAccount
from leases.models import Instance
from tests.billing.vendor.fleet import (
    LATER,
    at,
    classes,
    csv_file,
    finding_classes,
    findings,
    hour,
    hours,
    make_on_demand_node,
    make_price,
    make_run,
    reconcile,
    row,
)
from tests.factories import make_account, make_fleet, make_instance_type

DAY, NEXT_DAY = at(2), at(3)

pytestmark = pytest.mark.django_db(transaction=True)


def one_machine(
    *,
    start: datetime = DAY,
    end: datetime | None = NEXT_DAY,
    price: str = "16.00",
    provider_id: str = "i-0abc",
    **commitment: Any,
) -> Instance:
    """A machine of an hourly commitment at $16, on 2026-11-02 unless said otherwise."""
    commitment.setdefault("payment", "hourly")
    fleet = make_fleet(nodes=1, cost_per_node_hour=price, **commitment)
    return make_run(node=fleet.nodes[0], start=start, end=end, provider_id=provider_id)


def judge(account: ProviderAccount, *rows: dict[str, str]) -> list[tuple[str, str]]:
    bill = reconcile(account, rows)
    return list(BillLine.objects.filter(bill=bill).order_by("ordinal").values_list("line_class", "rule"))


def the_line(bill: VendorBill | None = None) -> BillLine:
    return BillLine.objects.get()


# --- which machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("i-0abc", "resource_id"),
        ("I-0ABC", "resource_id"),
        ("arn:aws:ec2:us-east-1:1:instance/i-0abc", "resource_suffix"),
        ("/subscriptions/1/resourcegroups/x/virtualmachines/I-0abc", "resource_suffix"),
    ],
)
def test_a_machine_is_known_by_its_name_in_any_spelling(name: str, rule: str) -> None:
    machine = one_machine()
    assert judge(machine.account, hour(at(2), ResourceId=name)) == [("matched", rule)]
    line = the_line()
    assert (line.instance, line.allocation) == (machine, machine.allocation)
    assert (line.expected_hours, line.expected_price) == (Decimal(1), Decimal(16))
    assert (line.quantity_variance, line.price_variance) == (0, 0)


def test_a_path_of_ours_matches_the_bills_lower_case_one() -> None:
    path = "/subscriptions/A/resourceGroups/R/providers/Microsoft.Compute/virtualMachines/VM1"
    machine = one_machine(provider_id=path)
    assert judge(machine.account, hour(at(2), ResourceId=path.lower())) == [("matched", "resource_id")]


def test_a_suffix_that_two_machines_share_matches_none() -> None:
    machine = one_machine(provider_id="/group-a/vm1")
    make_run(node=machine.allocation.node, start=at(4), end=at(5), provider_id="/group-b/vm1")
    assert judge(machine.account, hour(at(2), ResourceId="vm1")) == [("orphan_unknown", "")]


def test_our_tags_match_where_the_name_does_not() -> None:
    machine = one_machine()
    tag = f'{{"sublet:allocation": "{machine.allocation_id}"}}'
    lease = f'{{"user:sublet:lease": "{machine.allocation.lease.uid}"}}'
    assert judge(
        machine.account,
        hour(at(2), ResourceId="host-17", Tags=tag),
        hour(at(2, 1), ResourceId="host-17", Tags=lease),
    ) == [("matched", "tag_allocation"), ("matched", "tag_lease")]


def test_a_second_machine_with_our_tag_is_nobodys() -> None:
    """P2: a launch that happened twice carries the tag twice."""
    machine = one_machine()
    tag = f'{{"sublet:allocation": "{machine.allocation_id}"}}'
    assert judge(
        machine.account,
        hour(at(2), ResourceId="i-0abc", Tags=tag),
        hour(at(2), ResourceId="i-second", Tags=tag),
    ) == [("matched", "resource_id"), ("orphan_unknown", "second_machine")]


def test_another_accounts_machine_is_unknown_here() -> None:
    one_machine()
    assert judge(make_account(), hour(at(2), ResourceId="i-0abc")) == [("orphan_unknown", "")]


def test_successive_leases_of_a_node_are_told_apart_by_time() -> None:
    first = one_machine(start=at(2), end=at(2, 10))
    make_run(node=first.allocation.node, start=at(2, 12), end=at(2, 20), provider_id="i-0def")
    assert [name for name, _rule in judge(
        first.account,
        hour(at(2, 9), ResourceId="i-0abc"),
        hour(at(2, 12), ResourceId="i-0abc"),  # the other lease's time
        hour(at(2, 11), ResourceId="i-0def"),  # before it began
        hour(at(2, 12), ResourceId="i-0def"),
    )] == ["matched", "orphan_tail", "orphan_head", "matched"]  # fmt: skip


# --- when -----------------------------------------------------------------------------------------


def test_intervals_are_half_open() -> None:
    machine = one_machine(start=at(2, 1), end=at(2, 2))
    rows = [hour(at(2, number), ResourceId="i-0abc") for number in range(3)]
    assert [name for name, _rule in judge(machine.account, *rows)] == [
        "orphan_head",
        "matched",
        "orphan_tail",
    ]


def test_partial_hours_match_by_the_second() -> None:
    machine = one_machine(start=at(2, 0, 42, 14), end=at(2, 1, 18, 11), price="1.624")
    rows = [
        hour(at(2, 0), ResourceId="i-0abc", PricingQuantity="0.296111", BilledCost="0.480884264"),
        hour(at(2, 1), ResourceId="i-0abc", PricingQuantity="0.303056", BilledCost="0.492162944"),
    ]
    assert {name for name, _rule in judge(machine.account, *rows)} == {"matched"}


def test_a_machine_left_running_after_its_lease_is_a_tail_and_says_why() -> None:
    fleet = make_fleet(nodes=1, payment="hourly")
    machine = make_run(node=fleet.nodes[0], start=at(2), end=at(4), leased_until=at(3), provider_id="i-0abc")
    assert judge(machine.account, hour(at(2, 23), ResourceId="i-0abc"), hour(at(3), ResourceId="i-0abc")) == [
        ("matched", "resource_id"),
        ("orphan_tail", "resource_id+ran_on"),
    ]
    assert finding_classes(machine.account) == ["leased_not_billed", "leased_not_billed", "orphan_tail"]


def test_a_running_machine_counts_until_now() -> None:
    machine = one_machine(end=None)
    bill = reconcile(machine.account, [hour(at(2, 3), ResourceId="i-0abc")], now=at(2, 3, 30))
    assert the_line(bill).line_class == "qty_over"
    matching.classify(bill_id=bill.pk, now=at(2, 4))
    assert the_line(bill).line_class == "matched"


# --- quantity and price ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "cost", "expected"),
    [
        ("1", "16", "matched"),
        ("1.000000", "16.0000000000", "matched"),
        ("1.000277", "16.004432", "within_tolerance"),  # one second
        ("1.001", "16.016", "within_tolerance"),  # 0.1 %
        ("1.0011", "16.0176", "qty_over"),
        ("0.9989", "15.9824", "qty_under"),
        ("1", "16.000016", "within_tolerance"),  # a millionth
        ("1", "16.01", "within_tolerance"),  # a cent
        ("1", "15.99", "within_tolerance"),
        ("1", "16.0101", "price_variance"),
        ("1", "0", "price_variance"),
        ("2", "32", "qty_over"),
        ("2", "64", "price_variance"),  # the price is the larger difference
    ],
)
def test_tolerances(quantity: str, cost: str, expected: str) -> None:
    machine = one_machine()
    judge(machine.account, hour(at(2), ResourceId="i-0abc", PricingQuantity=quantity, BilledCost=cost))
    line = the_line()
    assert line.line_class == expected
    assert line.quantity_variance == (Decimal(quantity) - 1) * 16
    assert line.price_variance == Decimal(cost) - Decimal(quantity) * 16
    assert line.quantity_variance + line.price_variance == Decimal(cost) - 16  # exactly


def test_a_cent_is_forgiven_once_and_not_on_every_hour() -> None:
    machine = one_machine(price="0.30")
    wrong = hours(
        at(2), at(3), ResourceId="i-0abc", BilledCost="0.3090000"
    )  # 3 % too much, 0.9 cents an hour
    assert {name for name, _rule in judge(machine.account, *wrong)} == {"price_variance"}
    assert [finding.amount for finding in findings(machine.account)] == [Decimal("0.216")]


def test_rounding_each_line_to_the_cent_is_forgiven() -> None:
    machine = one_machine(price="0.3344")
    rounded = hours(at(2), at(3), ResourceId="i-0abc", BilledCost="0.33")
    assert {name for name, _rule in judge(machine.account, *rounded)} == {"matched"}
    rounded_up = hours(at(2), at(3), ResourceId="i-0abc", BilledCost="0.34")
    assert {name for name, _rule in judge(machine.account, *rounded_up)} == {"price_variance"}


def test_few_digits_excuse_no_difference() -> None:
    machine = one_machine(price="15.60", end=at(2, 0, 36))
    assert (
        judge(machine.account, hour(at(2), ResourceId="i-0abc", PricingQuantity="0.6", BilledCost="9"))[0][0]
        == "price_variance"
    )
    assert (
        judge(machine.account, hour(at(2), ResourceId="i-0abc", PricingQuantity="1", BilledCost="15.60"))[0][
            0
        ]
        == "qty_over"
    )


def test_a_machine_on_demand_costs_what_the_price_point_said() -> None:
    account = make_account()
    make_price(price="98.32", until=at(2, 12))
    make_price(price="60.00", since=at(2, 12))
    machine = make_run(
        node=make_on_demand_node(account=account), start=at(2), end=at(3), provider_id="i-0abc"
    )
    assert [name for name, _rule in judge(
        account,
        hour(at(2, 11), ResourceId="i-0abc", BilledCost="98.32"),
        hour(at(2, 12), ResourceId="i-0abc", BilledCost="60"),
        hour(at(2, 13), ResourceId="i-0abc", BilledCost="98.32"),
        row(
            ResourceId="i-0abc",
            ChargePeriodStart=at(2, 14).isoformat(),
            ChargePeriodEnd=at(3).isoformat(),
            PricingQuantity="10",
            BilledCost="600",
        ),
    )] == ["matched", "matched", "price_variance", "matched"]  # fmt: skip
    assert machine.allocation.node.commitment is None


def test_a_line_across_a_price_change_is_weighed() -> None:
    account = make_account()
    make_price(price="10", until=at(2, 6))
    make_price(price="20", since=at(2, 6))
    make_run(node=make_on_demand_node(account=account), start=at(2), end=at(3), provider_id="i-0abc")
    day = row(
        ResourceId="i-0abc",
        ChargePeriodStart=at(2).isoformat(),
        ChargePeriodEnd=at(3).isoformat(),
        PricingQuantity="24",
        BilledCost="420",
    )
    assert judge(account, day) == [("matched", "resource_id")]


def test_without_a_known_price_someone_must_say_it() -> None:
    account = make_account()
    make_run(node=make_on_demand_node(account=account), start=at(2), end=at(2, 1), provider_id="i-0abc")
    assert judge(account, hour(at(2), ResourceId="i-0abc")) == [("price_variance", "resource_id+no_price")]
    (finding,) = findings(account)
    assert (finding.amount, finding.material) == (Decimal(16), True)


def test_two_parts_of_one_hour_share_its_hours() -> None:
    machine = one_machine()
    rows = [
        hour(at(2), ResourceId="i-0abc", PricingCategory="Standard", PricingQuantity="0.4", BilledCost="6.4"),
        hour(
            at(2), ResourceId="i-0abc", PricingCategory="Committed", PricingQuantity="0.6", BilledCost="9.6"
        ),
    ]
    assert judge(machine.account, *rows) == [("matched", "resource_id")] * 2


def test_a_machine_sold_in_parts_is_weighed_as_a_whole() -> None:
    """GCP bills cores, memory and GPUs of one machine apart."""
    machine = one_machine()
    parts = [
        hour(
            at(2),
            ResourceId="i-0abc",
            SkuId="GPU",
            PricingUnit="GPU-Hours",
            PricingQuantity="8",
            BilledCost="12",
        ),
        hour(
            at(2),
            ResourceId="i-0abc",
            SkuId="CORE",
            PricingUnit="vCPU-Hours",
            PricingQuantity="192",
            BilledCost="3",
        ),
        hour(
            at(2),
            ResourceId="i-0abc",
            SkuId="RAM",
            PricingUnit="GiB-Hours",
            PricingQuantity="2048",
            BilledCost="1",
        ),
    ]
    assert judge(machine.account, *parts) == [("matched", "resource_id+bundle")] * 3
    parts[2]["BilledCost"] = "5"
    bill = reconcile(machine.account, parts)
    # the dearest part carries the whole difference
    assert classes(bill) == ["price_variance", "within_tolerance", "within_tolerance"]
    assert [
        finding.amount for finding in findings(machine.account) if finding.finding_class == "price_variance"
    ] == [Decimal(4)]


def test_something_billed_beside_the_machine_is_ancillary() -> None:
    machine = one_machine()
    rows = [
        hour(at(2), ResourceId="i-0abc"),
        hour(at(2), ResourceId="i-0abc", SkuId="EBS-OPTIMIZED", BilledCost="0.05"),
        hour(
            at(2),
            ResourceId="i-0abc",
            PricingUnit="GB",
            SkuId="EGRESS",
            BilledCost="3",
            ServiceCategory="Networking",
        ),
    ]
    assert judge(machine.account, *rows) == [
        ("matched", "resource_id"),
        ("ancillary", "resource_id+beside"),
        ("ancillary", "resource_id"),
    ]
    assert BillLine.objects.filter(instance=machine).count() == 3


def test_gpu_hours_are_machine_hours_by_its_gpus() -> None:
    machine = one_machine()
    gpu = hour(at(2), ResourceId="i-0abc", PricingUnit="GPU-Hours", PricingQuantity="8")
    assert judge(machine.account, gpu) == [("matched", "resource_id")]


# --- lines that name no machine --------------------------------------------------------------------


def test_all_machines_of_a_type_in_one_line() -> None:
    """CoreWeave aggregates by SKU, region and hour."""
    fleet = make_fleet(nodes=3, payment="hourly")
    for node in fleet.nodes:
        make_run(node=node, start=at(2), end=at(2, 2))
    kind = fleet.instance_type.name
    assert judge(
        fleet.account,
        hour(at(2), SkuId=kind, PricingQuantity="3", BilledCost="48"),
        hour(at(2, 1), SkuMeter=f"BoxUsage:{kind}", PricingQuantity="4", BilledCost="64"),
        hour(at(2, 2), SkuId=kind, PricingQuantity="1", BilledCost="16"),
        hour(at(2, 3), SkuId="something-else"),
    ) == [
        ("matched", "sku_region_hour"),
        ("qty_over", "sku_region_hour"),
        ("orphan_unknown", "sku_region_hour"),
        ("missing_key", ""),
    ]
    # the two hours are billed, so nothing is missing
    assert finding_classes(fleet.account) == ["missing_key", "orphan_unknown", "qty_over"]


def test_a_reservations_line_is_what_is_held() -> None:
    fleet = make_fleet(nodes=3, payment="hourly", reservation_id="cr-77")
    assert judge(
        fleet.account,
        hour(
            at(2),
            CapacityReservationId="arn:aws:ec2:::capacity-reservation/cr-77",
            PricingQuantity="3",
            BilledCost="48",
        ),
        hour(at(2, 1), CapacityReservationId="cr-77", PricingQuantity="4", BilledCost="64"),
    ) == [("matched", "reservation"), ("qty_over", "reservation")]


# --- classes that are not about one machine's hours -------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ChargeCategory": "Tax"}, "tax"),
        ({"ChargeCategory": "Credit", "BilledCost": "-5"}, "credit"),
        ({"BilledCost": "-5", "PricingQuantity": "-1"}, "credit"),
        ({"ChargeCategory": "Adjustment"}, "correction"),
        ({"ChargeClass": "Correction"}, "correction"),
        ({"ChargeClass": "Correction", "ChargeCategory": "Tax"}, "correction"),
        ({"ChargeCategory": "Purchase", "ServiceName": "Support"}, "fee"),
        ({"PricingUnit": "GB", "ServiceCategory": "Storage"}, "ancillary"),
        ({"ServiceCategory": "Networking", "ResourceId": "nat-1"}, "ancillary"),  # a gateway's hours
        ({"ServiceCategory": "Networking"}, "ancillary"),  # an address of the machine, by the hour
        ({"PricingUnit": "Wombats"}, "unit_mismatch"),
        ({"PricingQuantity": ""}, "unit_mismatch"),
        ({"ResourceId": ""}, "missing_key"),
        ({"ResourceId": "i-unknown"}, "orphan_unknown"),
    ],
)
def test_the_other_classes(values: dict[str, str], expected: str) -> None:
    machine = one_machine()
    ((found, _rule),) = judge(machine.account, hour(at(2), **{"ResourceId": "i-0abc", **values}))
    assert found == expected


def test_another_currency_is_a_class_of_its_own() -> None:
    machine = one_machine()
    bill = reconcile(
        machine.account,
        [
            *hours(at(2), at(3), ResourceId="i-0abc"),
            hour(at(2), ResourceId="vat", BillingCurrency="EUR", BilledCost="7"),
        ],
    )
    assert classes(bill)[-1] == "fx"
    assert sum(cost for _name, _lines, cost in matching.class_totals(bill)) == bill.total == 24 * 16
    (finding,) = findings(machine.account)
    assert (finding.finding_class, finding.currency, finding.amount, finding.material) == (
        "fx",
        "EUR",
        7,
        True,
    )


def test_a_line_billed_twice_keeps_its_first() -> None:
    machine = one_machine()
    once = hour(at(2), ResourceId="i-0abc")
    volume = row(ResourceId="vol-1", PricingUnit="GB-Months", ServiceCategory="Storage")
    support = row(ResourceId="", ChargeCategory="Purchase", ServiceName="Support")
    tax = row(ResourceId="", ChargeCategory="Tax")
    transfer = row(ResourceId="", PricingUnit="GB", BilledCost="2", ServiceCategory="Networking")
    rows = [once, volume, support, tax, transfer, once, volume, support, tax, {**transfer, "BilledCost": "3"}]
    assert [name for name, _rule in judge(machine.account, *rows)] == [
        "matched", "ancillary", "fee", "tax", "ancillary",
        "duplicate", "duplicate", "duplicate", "tax", "ancillary",  # two taxes, two transfers: both may be
    ]  # fmt: skip


def test_a_day_billed_beside_its_hours_is_billed_twice() -> None:
    machine = one_machine()
    day = row(
        ResourceId="i-0abc",
        ChargePeriodStart=at(2).isoformat(),
        ChargePeriodEnd=at(3).isoformat(),
        PricingQuantity="24",
        BilledCost="384",
    )
    found = judge(machine.account, *hours(at(2), at(3), ResourceId="i-0abc"), day)
    assert found == [("matched", "resource_id")] * 24 + [("duplicate", "overlapping_interval")]


def test_what_an_earlier_months_bill_had_is_billed_twice() -> None:
    machine = one_machine(start=at(2), end=at(2, 2))
    reconcile(machine.account, [hour(at(2), ResourceId="i-0abc")])
    december = landing.land(
        account_id=machine.account_id,
        month=date(2026, 12, 1),
        file=csv_file([hour(at(2), ResourceId="i-0abc"), hour(at(2, 1), ResourceId="i-0abc")]),
        file_name="december.csv",
        actor=None,
        now=LATER,
    )
    matching.classify(bill_id=december.pk, now=LATER)
    # the second hour came late, and only now
    assert classes(december) == ["duplicate", "matched"]


# --- commitments ----------------------------------------------------------------------------------


def purchase(cost: str, **values: Any) -> dict[str, str]:
    return row(
        ChargeCategory="Purchase",
        ResourceId="cr-77",
        CommitmentDiscountId="cr-77",
        BilledCost=cost,
        ChargePeriodStart=at(1).isoformat(),
        ChargePeriodEnd=(at(30) + timedelta(days=1)).isoformat(),
        **values,
    )


def test_a_monthly_fee_is_what_the_contract_says() -> None:
    fleet = make_fleet(nodes=2, payment="monthly", reservation_id="cr-77")
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 1), provider_id="i-0abc")
    used = hour(
        at(2),
        ResourceId="i-0abc",
        BilledCost="0",
        CommitmentDiscountId="cr-77",
        CommitmentDiscountStatus="Used",
    )
    bill = reconcile(fleet.account, [purchase("23040.00"), used])  # 2 × 720 h × $16
    assert classes(bill) == ["commitment", "matched"]
    assert findings(fleet.account) == []
    bill = reconcile(fleet.account, [purchase("24000.00"), used])
    assert classes(bill) == ["commitment", "matched"]
    (finding,) = findings(fleet.account)
    assert (finding.finding_class, finding.amount) == ("commitment_variance", Decimal(960))


def test_what_a_commitment_left_unused_is_overhead_and_no_leak() -> None:
    fleet = make_fleet(nodes=2, payment="hourly", reservation_id="cr-77")
    unused = hour(
        at(2), ResourceId="cr-77", CapacityReservationId="cr-77", CapacityReservationStatus="Unused"
    )
    assert judge(fleet.account, unused) == [("commitment_unused", "reservation")]
    assert findings(fleet.account) == []


def test_a_commitment_that_nobody_recorded_is_a_finding() -> None:
    fleet = make_fleet(nodes=2, payment="monthly", reservation_id="cr-77")
    stranger = purchase("100", SkuId="x") | {"CommitmentDiscountId": "cr-99", "ResourceId": "cr-99"}
    bill = reconcile(fleet.account, [stranger])
    assert classes(bill) == ["commitment"]
    assert finding_classes(fleet.account) == ["commitment_unknown"]


# --- what is missing ------------------------------------------------------------------------------


def test_hours_that_no_line_covers_are_missed_once_the_bill_is_late() -> None:
    machine = one_machine(start=at(2), end=at(2, 5))
    rows = [hour(at(2, number), ResourceId="i-0abc") for number in (0, 1, 4)]
    bill = reconcile(machine.account, rows, now=at(2, 12))
    (finding,) = findings(machine.account)
    assert (finding.finding_class, finding.material) == ("leased_not_billed", False)  # it may still come
    matching.classify(bill_id=bill.pk, now=at(5))
    (finding,) = findings(machine.account)
    assert (finding.material, finding.amount) == (True, Decimal(-32))
    assert finding.period is not None
    assert (finding.period.lower, finding.period.upper) == (at(2, 2), at(2, 4))
    reconcile(machine.account, hours(at(2), at(2, 5), ResourceId="i-0abc"), now=at(6))
    assert findings(machine.account) == []


def test_the_account_says_how_late_its_bills_are() -> None:
    machine = one_machine(start=at(2), end=at(2, 1))
    machine.account.options = {"bill_latency_hours": 1}
    machine.account.save()
    reconcile(machine.account, [row(ResourceId="x", ServiceCategory="Storage")], now=at(2, 3))
    (finding,) = findings(machine.account)
    assert (finding.finding_class, finding.material) == ("leased_not_billed", True)


def test_lines_tie_out_to_the_invoice() -> None:
    machine = one_machine()
    rows = [
        *hours(at(2), at(3), ResourceId="i-0abc", InvoiceId="INV-1"),
        row(ResourceId="x", ServiceCategory="Storage", BilledCost="1.004", InvoiceId="INV-2"),
    ]
    bill = reconcile(machine.account, rows, header_total=Decimal("385.00"))
    assert bill.invoice_ids == {"INV-1": "384.00", "INV-2": "1.004"}
    assert findings(machine.account) == []  # half a cent a line
    rows[0]["BilledCost"] = "16.0001"  # another file
    reconcile(
        machine.account,
        rows,
        header_total=Decimal("400.00"),
        invoice_totals={"INV-1": Decimal("384.00"), "INV-3": Decimal("9")},
    )
    assert [(finding.finding_class, finding.amount) for finding in findings(machine.account)] == [
        ("invoice_total_mismatch", Decimal("-9")),
        ("invoice_total_mismatch", Decimal("-14.9959")),
    ]


def test_a_type_of_another_region_is_another_pool() -> None:
    kind = make_instance_type().name
    fleet = make_fleet(nodes=1, payment="hourly")
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 1))
    assert judge(fleet.account, hour(at(2), SkuId=kind, RegionId="eu-west-1")) == [
        ("orphan_unknown", "sku_region_hour")
    ]


def test_a_short_hour_at_a_wrong_price_is_as_wrong_as_the_others() -> None:
    machine = one_machine(price="0.50", end=at(2, 3, 1, 1))
    rows = hours(at(2), at(2, 3), ResourceId="i-0abc", BilledCost="0.525")
    rows.append(hour(at(2, 3), ResourceId="i-0abc", PricingQuantity="0.016944", BilledCost="0.0088956"))
    assert {name for name, _rule in judge(machine.account, *rows)} == {"price_variance"}
    (finding,) = findings(machine.account)
    assert finding.line_count == 4
