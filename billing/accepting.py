"""Accepting a quote: funds are reserved and the hold becomes a promise, together or not at all.

The wallet is locked first, then the lease.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.utils.translation import gettext as _

from billing import accounts, requests
from billing.models import BillingAccount, Quote
from leases import booking, lifecycle
from leases.errors import HoldLapsed
from leases.models import Lease, Term
from portal.accounts import events
from portal.accounts.models import Organization, User
from portal.accounts.organizations import NotApproved, check_may_book
from portal.common.errors import Conflict, NotFound, PaymentRequired
from portal.common.money import format_money
from portal.common.transactions import durable

log = logging.getLogger(__name__)


class InsufficientFunds(PaymentRequired):
    """Wallet and credit do not cover the quote; ``extra["missing"]`` says by how much."""

    code = "insufficient-funds"


class QuoteExpired(Conflict):
    """The quote's time is over and its capacity is free again."""

    code = "quote-expired"


class QuoteUsed(Conflict):
    """The quote was accepted before, and its lease is over or cancelled."""

    code = "quote-used"


class AlreadyAwaiting(Conflict):
    """The organization has a lease that waits for funds; it may keep capacity waiting only once."""

    code = "already-awaiting-funds"


@dataclass(frozen=True)
class Funds:
    """What accepting a quote needs and what there is, in the account's currency."""

    needed: Decimal  # total and tax
    spendable: Decimal
    currency: str

    @property
    def missing(self) -> Decimal:
        return max(self.needed - self.spendable, Decimal(0))


def funds_for(quote: Quote) -> Funds:
    """Return what accepting the booking quote needs and what its organization has to spend now."""
    account = accounts.account_for(quote.organization)
    return Funds(needed_for(quote), account.spendable, account.currency)


def needed_for(quote: Quote) -> Decimal:
    """Return what an accepted booking quote reserves: its total and the tax on it."""
    return quote.total + Decimal(quote.arithmetic.get("tax", {}).get("amount", "0"))


def accept(
    *,
    quote_uid: str,
    organization: Organization,
    actor: User | None,
    now: datetime,
    wait_for_funds: bool = False,
    request_key: str | None = None,
) -> Lease:
    """Accept a booking quote: reserve its funds and turn the hold into a promise.

    Without funds it raises :class:`InsufficientFunds` and changes nothing, unless
    ``wait_for_funds``: then the capacity stays reserved for payment until
    ``SUBLET_PAYMENT_DEADLINE_HOURS`` from now or the start, whichever is first, one
    lease per organization at a time. A quote that was accepted before answers with its
    lease. Raises :class:`QuoteExpired`, :class:`QuoteUsed`, :class:`AlreadyAwaiting`,
    ``NotApproved`` and :class:`NotFound`.
    """
    payload = {"quote": quote_uid, "wait_for_funds": wait_for_funds}
    with durable():
        account = accounts.lock_account(organization)
        known = requests.recall(organization, "accept", request_key, payload)
        if known is not None:
            return Lease.objects.get(uid=known)
        lease, accepted = lock_quote(quote_uid, organization=organization, kind=Quote.Kind.BOOKING)
        if accepted.state != Quote.State.ACCEPTED:
            _accept(account, lease, accepted, actor=actor, now=now, wait_for_funds=wait_for_funds)
        elif lease.state not in lifecycle.LIVE:
            raise QuoteUsed(_("This quote was used and its lease is over. Ask for a new quote."))
        requests.remember(organization, "accept", request_key, payload, lease.uid)
    return lease


def lock_quote(uid: str, *, organization: Organization, kind: str) -> tuple[Lease, Quote]:
    """Part: lock the quote's lease, after the wallet, and return both as they are then.

    Raises :class:`NotFound` for another organization's quote.
    """
    lease_id = (
        Quote.objects.filter(uid=uid, organization=organization, kind=kind)
        .values_list("lease_id", flat=True)
        .first()
    )
    if lease_id is None:
        raise NotFound(_("There is no quote like that."))
    lease = lifecycle.lock_lease(lease_id)
    return lease, Quote.objects.select_related("organization").get(uid=uid)


def _accept(
    account: BillingAccount,
    lease: Lease,
    accepted: Quote,
    *,
    actor: User | None,
    now: datetime,
    wait_for_funds: bool,
) -> None:
    """Part: decide on an open quote, with wallet and lease locked."""
    check_may_book(account.organization)
    expired = QuoteExpired(_("This quote has expired and its capacity is free again. Ask for a new quote."))
    if accepted.state != Quote.State.OPEN or accepted.expires_at <= now:
        raise expired
    needed = needed_for(accepted)
    try:
        if account.spendable >= needed:
            _promise(account, lease, accepted, actor=actor, now=now)
        elif wait_for_funds:
            _await_funds(account, lease, actor=actor, now=now)
        else:
            raise insufficient(account, needed)
    except HoldLapsed:
        raise expired from None
    accepted.state = Quote.State.ACCEPTED
    accepted.accepted_by = actor
    accepted.accepted_at = now
    accepted.save(update_fields=["state", "accepted_by", "accepted_at"])
    events.record(
        kind="quote.accepted",
        subject_type="quote",
        subject_id=accepted.uid,
        organization=account.organization,
        actor=actor,
        now=now,
        before={"state": Quote.State.OPEN.value},
        after={"state": Quote.State.ACCEPTED.value, "lease": lease.uid, "reserved": str(account.reserved)},
    )


def _promise(
    account: BillingAccount, lease: Lease, accepted: Quote, *, actor: User | None, now: datetime
) -> None:
    """Part: reserve the quote's funds and schedule the lease. The caller has checked the funds."""
    accounts.reserve(
        account,
        lease=lease,
        amount=needed_for(accepted),
        tax_rate=Decimal(accepted.arithmetic.get("tax", {}).get("rate", "0")),
        now=now,
    )
    booking.confirm(lease, to=Lease.State.SCHEDULED, actor=actor, now=now)


def _await_funds(account: BillingAccount, lease: Lease, *, actor: User | None, now: datetime) -> None:
    waiting = Lease.objects.filter(
        organization=account.organization, state=Lease.State.AWAITING, deadline__gt=now
    )
    other = waiting.exclude(pk=lease.pk).first()
    if other is not None:
        raise AlreadyAwaiting(
            _("“%(lease)s” already waits for funds. Top up or cancel it before another lease waits.")
            % {"lease": other.name},
            lease=other.uid,
        )
    start = Term.objects.filter(lease=lease).order_by("period").values_list("period", flat=True)[0].lower
    deadline = min(now + timedelta(hours=settings.SUBLET_PAYMENT_DEADLINE_HOURS), start)
    if deadline <= now:
        raise QuoteExpired(
            _("The lease starts now: it cannot wait for funds. Top up and ask for a new quote.")
        )
    booking.confirm(lease, to=Lease.State.AWAITING, deadline=deadline, actor=actor, now=now)


def insufficient(account: BillingAccount, needed: Decimal) -> InsufficientFunds:
    """Return the refusal that says what is missing."""
    missing = needed - account.spendable
    return InsufficientFunds(
        _(
            "This needs %(needed)s and %(spendable)s can be spent: %(missing)s is missing. Top up, then accept again."
        )
        % {
            "needed": format_money(needed, account.currency),
            "spendable": format_money(max(account.spendable, Decimal(0)), account.currency),
            "missing": format_money(missing, account.currency),
        },
        missing={"amount": str(missing), "currency": account.currency},
    )


def settle_awaiting(*, now: datetime) -> int:
    """Schedule the leases whose funds have arrived, oldest first; return how many.

    Those past their deadline lapse, and their capacity is free again. Each lease is a
    transaction of its own, and one that fails is logged and does not stop the others;
    safe twice at once. A customer who may not book any more keeps waiting.
    """
    waiting = Lease.objects.filter(state=Lease.State.AWAITING).order_by("pk")
    late = list(waiting.filter(deadline__lte=now).values_list("pk", flat=True))
    lifecycle.lapse_these(lease_pks=late, now=now)
    scheduled = 0
    for lease in list(waiting.filter(deadline__gt=now).select_related("organization")):
        try:
            scheduled += _settle(lease, now=now)
        except NotApproved:  # staff stopped the customer meanwhile: it waits, until its deadline
            continue
        except Exception:
            log.exception("settling_failed", extra={"lease": lease.uid})
    return scheduled


def _settle(lease: Lease, *, now: datetime) -> bool:
    """Schedule one lease that waits, if its funds have arrived."""
    with durable():
        account = accounts.lock_account(lease.organization)
        locked = lifecycle.lock_lease(lease.pk)
        if locked.state != Lease.State.AWAITING or locked.deadline is None or locked.deadline <= now:
            return False
        accepted = Quote.objects.filter(
            lease=lease, kind=Quote.Kind.BOOKING, state=Quote.State.ACCEPTED
        ).first()
        if accepted is None or account.spendable < needed_for(accepted):
            return False
        check_may_book(account.organization)
        _promise(account, locked, accepted, actor=None, now=now)
        return True
