"""Cancelling a lease before its start: a quote says what it costs, then it is accepted."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.utils.translation import gettext as _

from billing import accounts, charges, requests
from billing.accepting import QuoteExpired, QuoteUsed, lock_quote
from billing.models import BillingAccount, Charge, FundsHold, Quote
from billing.pricing import text
from leases import lifecycle
from leases.models import Lease, Term
from portal.accounts import events
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict, NotFound
from portal.common.money import round_minor
from portal.common.periods import period
from portal.common.transactions import durable

CANCELLABLE = (Lease.State.HELD, Lease.State.AWAITING, Lease.State.SCHEDULED)


class TooLateToCancel(Conflict):
    """The lease has started or is over."""

    code = "too-late-to-cancel"


def quote_cancellation(
    *, lease_uid: str, organization: Organization, actor: User | None, now: datetime
) -> Quote:
    """Say what cancelling the lease costs, valid for ``SUBLET_HOLD_MINUTES`` or until its start.

    Before the start it costs ``SUBLET_CANCELLATION_FEE_PERCENT`` of a scheduled lease's
    price, and nothing while the lease is only held or waits for funds. An open
    quote is answered again. Raises :class:`TooLateToCancel` once the lease has started
    and :class:`NotFound` for another organization's lease.
    """
    with durable():
        lease_id = (
            Lease.objects.filter(uid=lease_uid, organization=organization)
            .values_list("pk", flat=True)
            .first()
        )
        if lease_id is None:
            raise NotFound(_("There is no lease like that."))
        lease = lifecycle.lock_lease(lease_id)
        term = _check_not_started(lease, now=now)
        known = Quote.objects.filter(
            lease=lease, kind=Quote.Kind.CANCELLATION, state=Quote.State.OPEN
        ).first()
        if known is not None:
            if known.expires_at > now:
                return known
            known.state = Quote.State.LAPSED
            known.save(update_fields=["state"])
        booked = lease.quotes.filter(kind=Quote.Kind.BOOKING).order_by("-pk").first()
        currency = booked.currency if booked else term.currency
        price = booked.total if booked else Decimal(0)
        hold = FundsHold.objects.filter(lease=lease, released_at=None).first()
        percent = min(settings.SUBLET_CANCELLATION_FEE_PERCENT, 100) if hold else 0
        fee = round_minor(price * percent / 100, currency)
        made = Quote.objects.create(
            organization=organization,
            project=lease.project,
            lease=lease,
            kind=Quote.Kind.CANCELLATION,
            expires_at=min(now + timedelta(minutes=settings.SUBLET_HOLD_MINUTES), term.period.lower),
            currency=currency,
            due_now=Decimal(0),
            due_later=fee,
            total=fee,
            arithmetic={
                "lease_total": text(price),
                "fee_percent": percent,
                "total": text(fee),
                "currency": currency,
                "released": text(hold.remaining if hold else Decimal(0)),
                "formula": "total = lease_total × fee_percent / 100, rounded to the minor unit",
            },
            created_by=actor,
            created_at=now,
        )
        events.record(
            kind="quote.created",
            subject_type="quote",
            subject_id=made.uid,
            organization=organization,
            actor=actor,
            now=now,
            after={"lease": lease.uid, "kind": made.kind, "total": str(fee), "currency": currency},
        )
    return made


def cancel(
    *,
    quote_uid: str,
    organization: Organization,
    actor: User | None,
    now: datetime,
    request_key: str | None = None,
) -> Lease:
    """Accept a cancellation quote: free the nodes, release the funds, charge the fee if there is one.

    A quote that was accepted before answers with its cancelled lease. Raises
    :class:`QuoteExpired`, :class:`TooLateToCancel` and :class:`NotFound`.
    """
    payload = {"quote": quote_uid}
    with durable():
        account = accounts.lock_account(organization)
        known = requests.recall(organization, "cancel", request_key, payload)
        if known is not None:
            return Lease.objects.get(uid=known)
        lease, accepted = lock_quote(quote_uid, organization=organization, kind=Quote.Kind.CANCELLATION)
        if accepted.state != Quote.State.ACCEPTED:
            _cancel(account, lease, accepted, actor=actor, now=now)
        elif lease.state != Lease.State.CANCELLED:
            raise QuoteUsed(_("This quote was used. Reload to see where the lease stands."))
        requests.remember(organization, "cancel", request_key, payload, lease.uid)
    return lease


def _cancel(
    account: BillingAccount, lease: Lease, accepted: Quote, *, actor: User | None, now: datetime
) -> None:
    """Part: cancel the locked lease by its open quote."""
    _check_not_started(lease, now=now)
    if accepted.state != Quote.State.OPEN or accepted.expires_at <= now:
        raise QuoteExpired(_("This cancellation quote has expired. Ask for a new one."))
    # The nodes are locked before the accounting period: the order of locks.
    lifecycle.cancel(lease, actor=actor, now=now, fee=str(accepted.total), quote=accepted.uid)
    hold = accounts.lock_hold(lease.pk)
    if accepted.total:
        charges.add_charge(
            account,
            kind=Charge.Kind.ONE_OFF,
            source=f"cancellation:{lease.uid}",
            description=_("%(lease)s: cancellation before the start") % {"lease": lease.name},
            lease=lease,
            period=period(now, now + timedelta(seconds=1)),
            quantity=Decimal(1),
            unit=charges.EACH,
            unit_price=accepted.total,
            amount=accepted.total,
            effective_at=now,
            now=now,
            hold=hold,
        )
    if hold is not None:
        # What stays reserved is the tax on the fee, until it is invoiced.
        accounts.shrink_hold(
            account, hold, to=round_minor(accepted.total * hold.tax_rate, account.currency), now=now
        )
    Quote.objects.filter(lease=lease, state=Quote.State.OPEN).exclude(pk=accepted.pk).update(
        state=Quote.State.LAPSED
    )
    accepted.state = Quote.State.ACCEPTED
    accepted.accepted_by = actor
    accepted.accepted_at = now
    accepted.save(update_fields=["state", "accepted_by", "accepted_at"])


def _check_not_started(lease: Lease, *, now: datetime) -> Term:
    """Return the locked lease's first term, or raise :class:`TooLateToCancel`."""
    term = Term.objects.filter(lease=lease).order_by("period").first()
    if lease.state not in CANCELLABLE:
        raise TooLateToCancel(
            _("This lease is %(state)s. Only a lease that has not started can be cancelled.")
            % {"state": Lease.State(lease.state).label.lower()}
        )
    if term is None or term.period.lower <= now:
        raise TooLateToCancel(
            _("This lease has started. It runs until its end, and you pay only for what is delivered.")
        )
    return term
