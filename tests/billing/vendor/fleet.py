"""Machines that ran, and bills about them: rows for the tests of the reconciliation."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing.models import BillLine, Finding, VendorBill
from billing.vendor import landing, matching
from inventory.models import InstanceType, Node, Offer, PricePoint, ProviderAccount, Region
from leases.models import Allocation, Instance, LaunchIntent, Lease
from portal.common.periods import period
from portal.local import focus_bill
from tests.factories import make_instance_type, make_organization, make_region, make_zone

MONTH = date(2026, 11, 1)
START = datetime(2026, 11, 1, tzinfo=UTC)
LATER = datetime(2026, 12, 10, tzinfo=UTC)  # the bill for November is complete by then
COLUMNS = (*focus_bill.COLUMNS, "InvoiceId", "CapacityReservationId", "CapacityReservationStatus", "SkuMeter")

_numbers = itertools.count(1)


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    """Return a moment of November 2026, UTC."""
    return datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


def make_run(
    *,
    node: Node,
    start: datetime,
    end: datetime | None,
    leased_until: datetime | None = None,
    provider_id: str = "",
    lease: Lease | None = None,
) -> Instance:
    """Return a machine that ran on ``node`` from ``start`` to ``end`` (``None``: still runs) for a lease.

    The lease was until ``leased_until``, else as long as the machine ran.
    """
    until = leased_until or end or node.available.upper
    given = period(start, until)
    lease = lease or Lease.objects.create(
        organization=make_organization(), name=f"run {next(_numbers)}", state=Lease.State.ENDED
    )
    allocation = Allocation.objects.create(
        node=node, node_available=node.available, period=given, occupied=given, lease=lease
    )
    intent = LaunchIntent.objects.create(
        allocation=allocation, account=node.account, state=LaunchIntent.State.LAUNCHED
    )
    return Instance.objects.create(
        intent=intent,
        allocation=allocation,
        account=node.account,
        provider_id=provider_id or f"i-{next(_numbers):017x}",
        state=Instance.State.TERMINATED if end else Instance.State.RUNNING,
        launched_at=start,
        ended_at=end,
    )


def make_on_demand_node(*, account: ProviderAccount, region: str = "aws/us-east-1", **kind: Any) -> Node:
    """Return a node without a commitment, as a launch on demand makes one."""
    zone = make_zone(region=region)
    return Node.objects.create(
        name=f"on-demand-{next(_numbers)}",
        account=account,
        instance_type=make_instance_type(**kind),
        region=zone.region,
        zone=zone,
        available=period(START - timedelta(days=60), START + timedelta(days=90)),
    )


def make_price(
    *,
    price: str,
    since: datetime = START - timedelta(days=60),
    until: datetime | None = None,
    instance_type: InstanceType | None = None,
    region: Region | None = None,
    currency: str = "USD",
) -> PricePoint:
    """Return what a type costs on demand in a region during a time."""
    offer, _made = Offer.objects.get_or_create(
        instance_type=instance_type or make_instance_type(),
        region=region or make_region(),
        purchase=Offer.Purchase.ON_DEMAND,
        defaults={"first_seen_at": since, "changed_at": since},
    )
    return PricePoint.objects.create(
        offer=offer,
        price=Decimal(price),
        currency=currency,
        source="rate_card",
        period=DateTimeTZRange(since, until, "[)"),
    )


def row(**values: Any) -> dict[str, str]:
    """Return one bill row: an hour of a machine on 2026-11-02 at $16, unless said otherwise."""
    defaults: dict[str, Any] = {
        **dict.fromkeys(COLUMNS, ""),
        "BilledCost": "16.00",
        "EffectiveCost": "16.00",
        "ListCost": "16.00",
        "ContractedCost": "16.00",
        "BillingAccountId": "123456789012",
        "BillingCurrency": "USD",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "machine hour",
        "ChargePeriodStart": "2026-11-02T00:00:00Z",
        "ChargePeriodEnd": "2026-11-02T01:00:00Z",
        "InvoiceIssuerName": "Cloud",
        "PricingQuantity": "1",
        "PricingUnit": "Hours",
        "ProviderName": "Cloud",
        "PublisherName": "Cloud",
        "RegionId": "us-east-1",
        "ServiceCategory": "Compute",
        "ServiceName": "Machines",
        "SkuId": "SKU1",
    }
    return {name: str(value) for name, value in {**defaults, **values}.items()}


def hour(start: datetime, **values: Any) -> dict[str, str]:
    """Return a row for the hour from ``start``."""
    return row(
        ChargePeriodStart=start.isoformat(),
        ChargePeriodEnd=(start + timedelta(hours=1)).isoformat(),
        **values,
    )


def hours(start: datetime, end: datetime, **values: Any) -> list[dict[str, str]]:
    """Return one row for each whole hour of ``[start, end)``."""
    count = int((end - start) / timedelta(hours=1))
    return [hour(start + timedelta(hours=number), **values) for number in range(count)]


def csv_file(rows: Iterable[Mapping[str, str]], columns: Iterable[str] = COLUMNS) -> io.BytesIO:
    """Return the rows as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return io.BytesIO(text.getvalue().encode())


def land(
    account: ProviderAccount, rows: Iterable[Mapping[str, str]], *, now: datetime = LATER, **options: Any
) -> VendorBill:
    """Land rows as November's bill."""
    return landing.land(
        account_id=account.pk,
        month=MONTH,
        file=csv_file(rows),
        file_name="bill.csv",
        actor=None,
        now=now,
        **options,
    )


def reconcile(
    account: ProviderAccount, rows: Iterable[Mapping[str, str]], *, now: datetime = LATER, **options: Any
) -> VendorBill:
    """Land rows as November's bill and classify them."""
    return matching.classify(bill_id=land(account, rows, now=now, **options).pk, now=now)


def classes(bill: VendorBill) -> list[str]:
    """Return the classes of the bill's lines, in the file's order."""
    return list(BillLine.objects.filter(bill=bill).order_by("ordinal").values_list("line_class", flat=True))


def findings(account: ProviderAccount, *, open_only: bool = True) -> list[Finding]:
    found = Finding.objects.filter(account=account).order_by("finding_class", "resource_id", "pk")
    return list(found.filter(state=Finding.State.OPEN) if open_only else found)


def finding_classes(account: ProviderAccount) -> list[str]:
    """Return the classes of the open findings."""
    return [finding.finding_class for finding in findings(account)]
