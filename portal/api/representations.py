"""What objects look like on the wire: plain functions from rows to JSON."""

from __future__ import annotations

from typing import Any

from billing.market import OurModel, difference
from billing.models import Charge, Invoice, Quote
from inventory.fleet import Freshness
from inventory.market import UNDISCLOSED, ModelSummary
from inventory.models import GpuModel, Offer, PricePoint
from leases.models import Lease, Term
from leases.software import OfferedStack
from portal.api.fields import bounds, instant, money
from portal.common.money import ledger
from portal.common.periods import seconds


def gpu_model(row: GpuModel) -> dict[str, Any]:
    """Return a GPU model."""
    return {
        "slug": row.slug,
        "name": row.name,
        "vendor": row.vendor,
        "memory_gib": row.memory_gib,
        "family": row.family,
    }


def stack(row: OfferedStack) -> dict[str, Any]:
    """Return software that machines can start with, and where."""
    found = row.stack
    return {
        "slug": found.slug,
        "name": found.name,
        "summary": found.summary,
        "operating_system": found.operating_system,
        "contents": found.contents,
        "gpu_models": list(row.gpu_models),
        "regions": list(row.regions),
        "default": found.is_default,
    }


def offer(row: Offer, *, seen: Freshness, disclosed: bool = True) -> dict[str, Any]:
    """Return what a cloud sells, with the age of its price and of its availability.

    What is not ``disclosed`` tells nothing about stock.
    """
    kind = row.instance_type
    return {
        "id": row.pk,
        "provider": kind.provider.slug,
        "region": row.region.code,
        "instance_type": kind.name,
        "gpu_model": kind.gpu_model.slug,
        "gpus_per_node": kind.gpus_per_node,
        "purchase": row.purchase,
        "price_per_hour": None if row.price is None else money(row.price, row.currency, exact=True),
        "price_per_gpu_hour": None
        if row.price is None
        else money(ledger(row.price / kind.gpus_per_node), row.currency, exact=True),
        "price_source": row.price_source,
        "price_seen_at": instant(seen.price_at(row.price_source)),
        "first_seen_at": instant(row.first_seen_at),
        "availability": row.availability if disclosed else UNDISCLOSED,
        "availability_seen_at": instant(seen.polled_at) if disclosed else None,
        "zones": row.zones if disclosed else [],
    }


def price_period(row: PricePoint) -> dict[str, Any]:
    """Return what an offer cost while it did; the current price has no end."""
    kind = row.offer.instance_type
    return {
        "offer": row.offer_id,
        "provider": kind.provider.slug,
        "region": row.offer.region.code,
        "instance_type": kind.name,
        "gpus_per_node": kind.gpus_per_node,
        "purchase": row.offer.purchase,
        "price_per_hour": money(row.price, row.currency, exact=True),
        "price_per_gpu_hour": money(ledger(row.price / kind.gpus_per_node), row.currency, exact=True),
        "price_source": row.source,
        **bounds(row.period),
    }


def comparison(
    row: GpuModel, *, summary: ModelSummary | None, ours: OurModel | None, currency: str
) -> dict[str, Any]:
    """Return a GPU model with the clouds' lowest prices and ours beside them."""
    direct = summary.lowest_of(Offer.Purchase.ON_DEMAND, currency) if summary else None
    return {
        **gpu_model(row),
        "clouds": summary.clouds if summary else 0,
        "regions": summary.regions if summary else 0,
        "regions_polled": summary.regions_known if summary else 0,
        "regions_available": summary.regions_available if summary else 0,
        "availability_seen_at": instant(summary.signal_at) if summary else None,
        "newest_price_at": instant(summary.newest) if summary else None,
        "oldest_price_at": instant(summary.oldest) if summary else None,
        "lowest": [
            {
                "purchase": low.purchase,
                "provider": low.provider,
                "region": low.region,
                "price_per_gpu_hour": money(ledger(low.per_gpu_hour), low.currency, exact=True),
                "price_source": low.source,
                "price_seen_at": instant(low.price_at),
                "sold_out": low.unavailable,
            }
            for low in (summary.lowest if summary else ())
        ],
        "ours": [
            {
                "region": one.region,
                "gpus_per_node": one.gpus_per_node,
                "hours": one.hours,
                "price_per_gpu_hour": None
                if one.per_gpu_hour is None
                else money(one.per_gpu_hour, one.currency, exact=True),
                "to_lowest_on_demand": None
                if one.per_gpu_hour is None or direct is None or direct.currency != one.currency
                else f"{difference(one.per_gpu_hour, direct.per_gpu_hour):.4f}",
                "gpus_free": one.gpus_free,
            }
            for one in (ours.offers if ours else ())
        ],
    }


# What a customer may read of a quote's arithmetic. The rest (our cost, the rule's name and
# mark-up, why staff set another rate) is ours.
ARITHMETIC = (
    "request",
    "gpus",
    "seconds",
    "gpu_hours",
    "rate_per_gpu_hour",
    "lease_total",
    "fee_percent",
    "released",
    "total",
    "currency",
    "formula",
    "tax",
)


def quote(row: Quote) -> dict[str, Any]:
    """Return a quote with the arithmetic that made its total."""
    return {
        "id": row.uid,
        "kind": row.kind,
        "state": row.state,
        "expires_at": instant(row.expires_at),
        "lease": row.lease.uid,
        "due_now": money(row.due_now, row.currency),
        "due_later": money(row.due_later, row.currency),
        "total": money(row.total, row.currency),
        "rate_per_gpu_hour": None
        if row.rate_per_gpu_hour is None
        else money(row.rate_per_gpu_hour, row.currency, exact=True),
        "arithmetic": {name: row.arithmetic[name] for name in ARITHMETIC if name in row.arithmetic},
        "created_at": instant(row.created_at),
        "accepted_at": instant(row.accepted_at),
    }


def term(row: Term) -> dict[str, Any]:
    """Return a dated term of a lease."""
    return {
        **bounds(row.period),
        "gpu_model": row.gpu_model.slug,
        "gpus_per_node": row.gpus_per_node,
        "nodes": row.nodes,
        "gpus": row.nodes * row.gpus_per_node,
        "region": row.region.code if row.region else None,
        "rate_per_gpu_hour": None
        if row.rate_per_gpu_hour is None
        else money(row.rate_per_gpu_hour, row.currency, exact=True),
    }


def lease(row: Lease, *, commands: list[str] | None = None) -> dict[str, Any]:
    """Return a lease; ``commands`` are the SSH commands of its running machines."""
    result: dict[str, Any] = {
        "id": row.uid,
        "name": row.name,
        "state": row.state,
        "state_changed_at": instant(row.state_changed_at),
        "deadline": instant(row.deadline),
        "project": row.project.uid if row.project else None,
        "one_fabric": row.one_fabric,
        "stack": row.stack.slug if row.stack else None,
        "terms": [term(found) for found in row.terms.all()],
        "created_at": instant(row.created_at),
    }
    if commands is not None:
        result["ssh"] = commands
    return result


def invoice(row: Invoice) -> dict[str, Any]:
    """Return an invoice with its lines."""
    return {
        "id": row.uid,
        "number": row.number or None,
        "month": f"{row.month:%Y-%m}",
        "state": row.state,
        "issued_at": instant(row.issued_at),
        "due_on": row.due_on.isoformat() if row.due_on else None,
        "subtotal": money(row.subtotal, row.currency),
        "tax": money(row.tax, row.currency),
        "total": money(row.total, row.currency),
        "lines": [
            {
                "description": line.description,
                "quantity": f"{line.quantity.normalize():f}",
                "unit": line.unit,
                "unit_price": money(line.unit_price, row.currency, exact=True),
                "amount": money(line.amount, row.currency),
                "tax_code": line.tax_code,
                "tax_rate": f"{line.tax_rate.normalize():f}",
                "tax_amount": money(line.tax_amount, row.currency),
            }
            for line in row.lines.all()
        ],
    }


def usage(row: Charge) -> dict[str, Any]:
    """Return one charge: what was delivered, when, and what it cost."""
    return {
        "id": row.uid,
        "lease": row.lease.uid if row.lease else None,
        "project": row.project.uid if row.project else None,
        "kind": row.kind,
        "description": row.description,
        **bounds(row.period),
        "seconds": seconds(row.period),
        "quantity": f"{row.quantity.normalize():f}",
        "unit": row.unit,
        "unit_price": money(row.unit_price, row.currency, exact=True),
        "amount": money(row.amount, row.currency, exact=True),
        "invoiced": row.invoice_line_id is not None,
    }
