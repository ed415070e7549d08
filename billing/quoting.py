"""Quotes: capacity held for some minutes, its price, and the arithmetic behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import IntegrityError
from django.utils.translation import gettext as _

from billing import accounts, pricing, requests, sellers
from billing.models import BillingAccount, Quote
from inventory.models import GpuModel, Node
from leases import booking
from leases.buying import unmet
from leases.errors import NotEnoughCapacity
from leases.models import Lease, Term
from leases.requests import CapacityRequest
from portal.accounts import events
from portal.accounts.models import Organization, Project, SSHKey, User
from portal.accounts.organizations import check_may_book
from portal.common.errors import Conflict, Forbidden, InvalidInput
from portal.common.money import ledger
from portal.common.transactions import durable

LONGEST_VALIDITY = timedelta(days=30)


class TooManyQuotes(Conflict):
    """The organization holds capacity with as many open quotes as it may."""

    code = "too-many-quotes"


def quote(
    *,
    organization: Organization,
    request: CapacityRequest,
    actor: User | None,
    now: datetime,
    name: str = "",
    project: Project | None = None,
    ssh_keys: Sequence[SSHKey] = (),
    allowed_addresses: Sequence[str] = (),
    image: str = "",
    kind: str = Lease.Kind.FIXED,
    request_key: str | None = None,
    prepared_by: User | None = None,
    rate_override: Decimal | None = None,
    override_reason: str = "",
    purchase_order: str = "",
    terms_version: str = "",
    valid_for: timedelta | None = None,
) -> Quote:
    """Hold capacity for the request and price it; the quote and the hold lapse together.

    Valid for ``SUBLET_HOLD_MINUTES``; staff (``prepared_by``) may choose ``valid_for``
    and, with a reason, another rate per GPU-hour. The same ``request_key`` and request
    answer with the same quote. Locks the wallet first, so that a customer's open quotes
    can be counted. Raises :class:`InvalidInput`, ``NotApproved``, :class:`TooManyQuotes`,
    ``NotEnoughCapacity`` (with alternatives) and :class:`~billing.pricing.NoPrice`.
    """
    request = request.clean(now)
    check_may_book(organization)
    currency = accounts.account_for(organization).currency
    _check_prepared(prepared_by, rate_override, override_reason, valid_for)
    expires_at = _expiry(request, now=now, valid_for=valid_for)
    if not name.strip():
        model = GpuModel.objects.get(slug=request.gpu_model)
        name = f"{request.nodes} × {request.gpus_per_node} {model.name}"[:80]
    payload = {
        **request.as_dict(),
        "name": name,
        "kind": str(kind),
        "image": image,
        "project": project.uid if project else None,
        "ssh_keys": sorted(key.uid for key in ssh_keys),
        "allowed_addresses": list(allowed_addresses),
    }

    def attempt(wait: bool) -> Quote:
        with durable():
            known = requests.recall(organization, "quote", request_key, payload)
            if known is not None:
                return Quote.objects.get(uid=known)
            accounts.lock_account(organization)
            if prepared_by is None:
                _check_open_quotes(organization, now=now)
            lease = booking.hold_nodes(
                request=request,
                organization=organization,
                project=project,
                name=name,
                actor=actor,
                now=now,
                expires_at=expires_at,
                kind=kind,
                ssh_keys=ssh_keys,
                allowed_addresses=allowed_addresses,
                image=image,
                wait=wait,
            )
            priced = _price_picked(
                lease, request, organization, now=now, currency=currency, rate_override=rate_override
            )
            made = Quote.objects.create(
                organization=organization,
                project=project,
                lease=lease,
                expires_at=expires_at,
                currency=priced.currency,
                **_due(priced.total, accounts.account_for(organization)),
                rate_per_gpu_hour=priced.rate_per_gpu_hour,
                price_rule=priced.rule,
                arithmetic=_with_tax(priced, override_reason=override_reason),
                prepared_by=prepared_by,
                override_reason=override_reason.strip(),
                purchase_order=purchase_order.strip(),
                terms_version=terms_version.strip(),
                created_by=actor,
                created_at=now,
            )
            Term.objects.filter(lease=lease).update(
                rate_per_gpu_hour=priced.rate_per_gpu_hour, currency=priced.currency, quote_uid=made.uid
            )
            events.record(
                kind="quote.prepared" if prepared_by else "quote.created",
                subject_type="quote",
                subject_id=made.uid,
                organization=organization,
                actor=actor,
                now=now,
                after={
                    "lease": lease.uid,
                    "total": str(made.total),
                    "currency": made.currency,
                    "expires_at": expires_at.isoformat(),
                    **({"override_reason": override_reason} if rate_override is not None else {}),
                },
            )
            requests.remember(organization, "quote", request_key, payload, made.uid)
            return made

    try:
        return booking.with_capacity(request=request, now=now, attempt=attempt)
    except NotEnoughCapacity:
        unmet.keep_search(request=request, hours=request.hours, now=now)
        raise
    except IntegrityError:
        # A twin with the same request key was first: answer as it did.
        known = requests.recall(organization, "quote", request_key, payload)
        if known is None:
            raise
        return Quote.objects.get(uid=known)


def _check_open_quotes(organization: Organization, *, now: datetime) -> None:
    """Part: refuse one more hold where the customer keeps enough capacity unpaid; the wallet is locked."""
    most = settings.SUBLET_OPEN_QUOTES
    held = Lease.objects.filter(organization=organization, state=Lease.State.HELD, deadline__gt=now)
    if held.exclude(quotes__prepared_by__isnull=False).count() >= most:
        raise TooManyQuotes(
            _("You have %(most)d open quotes. Accept or drop one, or wait until one expires.")
            % {"most": most}
        )


def _check_prepared(
    prepared_by: User | None, rate: Decimal | None, reason: str, valid_for: timedelta | None
) -> None:
    if prepared_by is None:
        if rate is not None or valid_for is not None:
            raise Forbidden(_("Only staff set a rate or a validity."))
        return
    if not (prepared_by.is_staff and prepared_by.is_active):
        raise Forbidden(_("Only staff prepare quotes for customers."))
    if rate is not None:
        if not rate.is_finite() or rate <= 0:
            raise InvalidInput(_("The rate per GPU-hour must be above zero."), field="rate_override")
        if rate != ledger(rate) or rate >= 100_000:
            raise InvalidInput(
                _("The rate has at most eight decimals and is below 100,000."), field="rate_override"
            )
        if not reason.strip():
            raise InvalidInput(_("Say why the rate differs from the price list."), field="override_reason")
    if valid_for is not None and not timedelta(minutes=1) <= valid_for <= LONGEST_VALIDITY:
        raise InvalidInput(_("A quote is valid between one minute and 30 days."), field="valid_for")


def _expiry(request: CapacityRequest, *, now: datetime, valid_for: timedelta | None) -> datetime:
    """Return when the hold lapses: a long one ends with the lease's start at the latest."""
    usual = now + timedelta(minutes=settings.SUBLET_HOLD_MINUTES)
    if valid_for is None:
        return usual
    return min(now + valid_for, max(request.start, usual))


def _price_picked(
    lease: Lease,
    request: CapacityRequest,
    organization: Organization,
    *,
    now: datetime,
    currency: str,
    rate_override: Decimal | None,
) -> pricing.PricedRequest:
    """Price the request with the region and type that the picked nodes have (one region per lease)."""
    nodes = list(
        Node.objects.filter(allocations__lease=lease).select_related("instance_type", "region__provider")
    )
    types = {node.instance_type for node in nodes}
    regions = {node.region for node in nodes}
    return pricing.price(
        request,
        organization,
        now,
        kind=lease.kind,
        instance_type=types.pop() if len(types) == 1 else None,
        region=regions.pop() if len(regions) == 1 else None,
        currency=currency,
        rate_override=rate_override,
    )


def _with_tax(priced: pricing.PricedRequest, *, override_reason: str) -> dict[str, Any]:
    seller = sellers.default_seller()
    arithmetic = {
        **priced.arithmetic,
        "tax": {
            "code": seller.tax_code,
            "rate": pricing.text(seller.tax_rate),
            "amount": pricing.text(sellers.tax_on(priced.total, seller, priced.currency)),
            "reason": seller.tax_reason,
        },
    }
    if priced.rule is None:
        arithmetic["override_reason"] = override_reason.strip()
    return arithmetic


def _due(total: Decimal, account: BillingAccount) -> dict[str, Decimal]:
    """Prepaid customers need all of it now; the others are invoiced in arrears."""
    now = total if account.mode == BillingAccount.Mode.PREPAID else Decimal(0)
    return {"due_now": now, "due_later": total - now, "total": total}


def lapse_quotes(*, now: datetime) -> int:
    """Mark open quotes whose time is over as lapsed; return how many. Their holds lapse in leases."""
    with durable():
        return Quote.objects.filter(state=Quote.State.OPEN, expires_at__lte=now).update(
            state=Quote.State.LAPSED
        )
