"""What most money tests start from: a fleet, a price, a customer with funds."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing import accounts, checkout, ledger
from billing.models import BillingAccount, Charge, Entry, FundsHold, Invoice, PriceRule, Quote
from leases.models import Allocation, Lease
from portal.accounts.models import Organization
from portal.common.periods import period
from tests.factories import NOW, make_organization, make_request

RATE = Decimal("2.00")
EARLY = NOW - timedelta(days=400)


def make_rule(
    *,
    name: str = "List price",
    kind: str = "fixed",
    amount: Decimal | str = RATE,
    since: datetime = EARLY,
    until: datetime | None = None,
    **scope: Any,
) -> PriceRule:
    return PriceRule.objects.create(
        name=name,
        kind=kind,
        amount=Decimal(amount),
        effective=DateTimeTZRange(since, until, "[)"),
        **scope,
    )


def make_customer(
    *, funds: Decimal | str = "0", mode: str = "prepaid", credit: Decimal | str = "0", **fields: Any
) -> Organization:
    """Return an approved organization with ``funds`` in its wallet and this much credit."""
    organization = make_organization(**fields)
    if mode != "prepaid" or Decimal(credit):
        accounts.set_terms(
            organization=organization,
            mode=mode,
            credit_limit=Decimal(credit),
            payment_days=14,
            actor=None,
            now=NOW,
        )
    if Decimal(funds):
        accounts.top_up(
            organization=organization,
            amount=Decimal(funds),
            reference=f"bank {organization.uid}",
            actor=None,
            now=EARLY,
        )
    return organization


def make_quote(organization: Organization, *, now: datetime = NOW, **more: Any) -> Quote:
    """Return a quote; what :func:`checkout.quote` does not take goes to ``make_request``."""
    mine = {
        key: more.pop(key)
        for key in list(more)
        if key
        in {
            "name",
            "project",
            "request_key",
            "prepared_by",
            "rate_override",
            "override_reason",
            "purchase_order",
            "terms_version",
            "valid_for",
        }
    }
    return checkout.quote(
        organization=organization, request=make_request(**more), actor=None, now=now, **mine
    )


def make_booking(organization: Organization, *, now: datetime = NOW, **more: Any) -> Lease:
    """Return a scheduled lease, quoted and accepted."""
    quote = make_quote(organization, now=now, **more)
    return checkout.accept(quote_uid=quote.uid, organization=organization, actor=None, now=now)


def deliver(lease: Lease, start: datetime, end: datetime | None = None) -> list[Allocation]:
    """Write the delivered time of all the lease's allocations, as a passed probe and an end do."""
    delivered = DateTimeTZRange(start, end, "[)")
    lease.allocations.update(delivered=delivered)
    return list(lease.allocations.order_by("pk"))


def account_of(organization: Organization) -> BillingAccount:
    return BillingAccount.objects.get(organization=organization)


def money_snapshot() -> dict[str, list[Any]]:
    """Everything that a refusal must leave as it was."""
    return {
        "accounts": list(BillingAccount.objects.order_by("pk").values()),
        "holds": list(FundsHold.objects.order_by("pk").values()),
        "entries": list(Entry.objects.order_by("pk").values()),
        "charges": list(Charge.objects.order_by("pk").values()),
        "quotes": list(Quote.objects.order_by("pk").values()),
        "invoices": list(Invoice.objects.order_by("pk").values()),
        "leases": list(Lease.objects.order_by("pk").values()),
        "allocations": list(Allocation.objects.order_by("pk").values()),
    }


def check_books() -> None:
    """Check that the accounts' sums say what the ledger, the charges and the invoices say (M7, M8)."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    from billing.audit import CHECKS

    for check in CHECKS:
        outcome = check.outcome()
        assert outcome.violations == 0, outcome


def owed_by_ledger(organization: Organization) -> Decimal:
    return sum(
        (
            ledger.balance(kind, currency="USD", organization=organization)
            for kind in ("unbilled", "receivable")
        ),
        Decimal(0),
    )


__all__ = ["NOW", "RATE", "period"]
