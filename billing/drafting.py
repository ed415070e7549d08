"""Drafts: a month's unbilled charges of one organization, summed into lines.

A line's amount is the exact sum of its charges, rounded half-even once to the
currency's minor unit (ISO 4217); the tax of a line is rounded the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from django.db.models import Max, Min, Q, QuerySet, Sum
from django.utils.translation import gettext as _

from billing import accounts, charges, ledger, sellers
from billing.models import BillingAccount, Charge, Invoice, InvoiceLine, Seller
from leases.models import Term
from portal.accounts.models import Organization
from portal.common.errors import InvalidInput
from portal.common.money import ledger as eight_decimals
from portal.common.money import round_minor
from portal.common.transactions import durable, require_transaction

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Group:
    """The charges that one line sums up."""

    members: Q
    lease_id: int | None
    unit: str
    unit_price: Decimal
    quantity: Decimal
    exact: Decimal
    start: datetime
    description: str


def draft_month(*, month: date, now: datetime, organization: Organization | None = None) -> list[Invoice]:
    """Draft one invoice per organization from its unbilled charges up to the end of ``month``.

    ``month`` is any day of a UTC month that is over. Charges of earlier months that
    became known late are included. Run again, it collects anew into the same draft.
    What sums to less than zero stays unbilled and lowers a later invoice. Returns the
    drafts. Raises :class:`InvalidInput` while the month is not over.
    """
    month = month.replace(day=1)
    until = ledger.month_start(ledger.next_month(month))
    if until > now:
        raise InvalidInput(
            _("%(month)s is not over yet: draft it from %(next)s on.")
            % {"month": f"{month:%Y-%m}", "next": until.date().isoformat()},
            field="month",
        )
    wanted = Organization.objects.filter(
        Q(pk__in=_billable(month, until).order_by().values("organization"))
        | Q(invoices__month=month, invoices__state=Invoice.State.DRAFT)
    )
    if organization is not None:
        wanted = wanted.filter(pk=organization.pk)
    drafts = []
    for customer in wanted.distinct().order_by("pk"):
        with durable():
            draft = _draft(accounts.lock_account(customer), month=month, until=until, now=now)
        if draft is not None:
            drafts.append(draft)
    return drafts


def _billable(month: date, until: datetime) -> QuerySet[Charge]:
    """Charges that began before ``until`` and are on no invoice, or on this month's draft."""
    return Charge.objects.filter(
        Q(invoice_line=None)
        | Q(invoice_line__invoice__month=month, invoice_line__invoice__state=Invoice.State.DRAFT),
        period__startswith__lt=until,
    )


def _draft(account: BillingAccount, *, month: date, until: datetime, now: datetime) -> Invoice | None:
    """Part: collect the locked account's charges; nobody adds or moves one without that lock."""
    require_transaction()
    organization = account.organization
    invoice = (
        Invoice.objects.select_for_update(no_key=True, of=("self",))
        .filter(organization=organization, month=month, currency=account.currency, state=Invoice.State.DRAFT)
        .first()
    )
    seller = sellers.default_seller()
    unbilled = Charge.objects.filter(
        organization=organization,
        currency=account.currency,
        invoice_line=None,
        period__startswith__lt=until,
    )
    if invoice is not None:
        if not unbilled.exists() and not _taxed_otherwise(invoice, seller):
            return invoice
        Charge.objects.filter(invoice_line__invoice=invoice).update(invoice_line=None)
        invoice.lines.all().delete()
    groups = _groups(unbilled)
    draft = invoice or Invoice(
        organization=organization, month=month, currency=account.currency, created_at=now
    )
    lines = [_line(draft, ordinal, group, seller) for ordinal, group in enumerate(groups, start=1)]
    draft.seller = seller
    draft.subtotal = sum((line.amount for line in lines), Decimal(0))
    draft.tax = sum((line.tax_amount for line in lines), Decimal(0))
    draft.total = draft.subtotal + draft.tax
    if not lines or draft.total < 0 or sum(group.exact for group in groups) < 0:
        if invoice is not None:
            invoice.delete()
        return None
    draft.save()
    InvoiceLine.objects.bulk_create(lines)
    for line, group in zip(lines, groups, strict=True):
        unbilled.filter(group.members).update(invoice_line=line)
    return draft


def _taxed_otherwise(invoice: Invoice, seller: Seller) -> bool:
    """Tell whether the draft names another seller, or the seller's tax has changed since."""
    if invoice.seller_id != seller.pk:
        return True
    same = Q(tax_code=seller.tax_code, tax_rate=seller.tax_rate, tax_reason=seller.tax_reason)
    return invoice.lines.exclude(same).exists()


def _line(invoice: Invoice, ordinal: int, group: Group, seller: Seller) -> InvoiceLine:
    amount = round_minor(group.exact, invoice.currency)
    quantity, unit = group.quantity, group.unit
    if unit == charges.GPU_SECOND:
        quantity, unit = eight_decimals(group.quantity / SECONDS_PER_HOUR), "gpu_hour"
    return InvoiceLine(
        invoice=invoice,
        ordinal=ordinal,
        lease_id=group.lease_id,
        description=group.description[:300],
        quantity=quantity,
        unit=unit,
        unit_price=group.unit_price,
        exact_amount=group.exact,
        amount=amount,
        tax_code=seller.tax_code,
        tax_rate=seller.tax_rate,
        tax_amount=sellers.tax_on(amount, seller, invoice.currency),
        tax_reason=seller.tax_reason,
    )


def _groups(unbilled: QuerySet[Charge]) -> list[Group]:
    """Sum usage (with what was taken back) by lease and unit price; anything else is a line of its own."""
    usage = list(
        unbilled.filter(unit=charges.GPU_SECOND)
        .order_by()
        .values("lease", "unit_price")
        .annotate(
            quantity_sum=Sum("quantity"),
            exact=Sum("amount"),
            first=Min("period__startswith"),
            last=Max("period__endswith"),
        )
    )
    terms = {
        term.lease_id: term
        for term in Term.objects.filter(lease__in={row["lease"] for row in usage})
        .select_related("lease", "gpu_model")
        .order_by("-period")
    }
    groups = [
        Group(
            members=Q(lease=row["lease"], unit=charges.GPU_SECOND, unit_price=row["unit_price"]),
            lease_id=row["lease"],
            unit=charges.GPU_SECOND,
            unit_price=row["unit_price"],
            quantity=row["quantity_sum"],
            exact=row["exact"],
            start=row["first"],
            description=_describe(terms.get(row["lease"]), row["first"], row["last"]),
        )
        for row in usage
        if row["quantity_sum"] or row["exact"]
    ]
    groups += [
        Group(
            members=Q(pk=charge.pk),
            lease_id=charge.lease_id,
            unit=charge.unit,
            unit_price=charge.unit_price,
            quantity=charge.quantity,
            exact=charge.amount,
            start=charge.period.lower,
            description=charge.description,
        )
        for charge in unbilled.exclude(unit=charges.GPU_SECOND)
    ]
    return sorted(groups, key=lambda group: (group.start, group.lease_id or 0, group.unit_price))


def _describe(term: Term | None, first: datetime, last: datetime) -> str:
    """Return what a usage line says: the lease, its machines, and from when to when in UTC."""
    dates = {
        "first": f"{first.astimezone(UTC):%Y-%m-%d %H:%M}",
        "last": f"{last.astimezone(UTC):%Y-%m-%d %H:%M}",
    }
    if term is None:
        return _("GPU usage, %(first)s to %(last)s UTC") % dates
    return _("%(lease)s: %(nodes)s × %(gpus)s %(model)s, %(first)s to %(last)s UTC") % {
        "lease": term.lease.name,
        "nodes": term.nodes,
        "gpus": term.gpus_per_node,
        "model": term.gpu_model.name,
        **dates,
    }
