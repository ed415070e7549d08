"""Which event becomes which mail, to whom, and when it is no longer worth sending.

One row per event kind. An event without a rule is only history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from portal.accounts.models import Event
from portal.notifications import facts, people

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
TWO_MONTHS = timedelta(days=60)  # money is told of, however long the mail was down


def always(event: Event) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Rule:
    """``template`` is ``templates/notifications/<template>.txt``.

    ``facts`` is asked when the mail is sent, and says ``None`` when there is nothing to
    tell any more. ``stale_after`` drops what a long outage made pointless. ``once_per`` keeps twenty
    events about one subject (a lease of twenty nodes that are late) from being twenty
    mails: the first speaks for those that follow within that time.
    """

    template: str
    to: Callable[[Event], Iterable[str]]
    facts: Callable[[Event], dict[str, Any] | None] = facts.of_event
    wanted: Callable[[Event], bool] = always
    stale_after: timedelta = WEEK
    once_per: timedelta | None = None


def _by_a_person(event: Event) -> bool:
    return event.actor_id is not None


def _was_awaiting(event: Event) -> bool:
    # A hold that lapses unanswered is no news; a lease that was accepted and not paid is.
    return bool(event.before.get("state") == "awaiting")


RULES: dict[str, Rule] = {
    # people
    "invitation.created": Rule(template="invitation", to=people.invited, facts=facts.of_invitation),
    "invitation.resent": Rule(template="invitation", to=people.invited, facts=facts.of_invitation),
    "member.joined": Rule(template="member_joined", to=people.managers_and_subject),
    "member.removed": Rule(template="member_removed", to=people.managers_and_subject),
    "member.role_changed": Rule(template="member_role_changed", to=people.managers_and_subject),
    "token.created": Rule(template="token_created", to=people.managers_and_actor),
    # The setting that approves at sign-up is not worth a mail; a decision is.
    "organization.approved": Rule(template="organization_approved", to=people.managers, wanted=_by_a_person),
    "organization.restricted": Rule(template="organization_restricted", to=people.managers),
    "organization.suspended": Rule(template="organization_suspended", to=people.managers),
    # leases
    "quote.prepared": Rule(template="quote_prepared", to=people.lessees, facts=facts.of_quote),
    "lease.scheduled": Rule(template="lease_scheduled", to=people.lease, facts=facts.of_lease),
    "lease.awaiting": Rule(template="lease_awaiting", to=people.lease_and_money, facts=facts.of_awaiting),
    "lease.active": Rule(template="lease_active", to=people.lease, facts=facts.of_lease),
    "lease.ends_soon": Rule(
        template="lease_ends_soon",
        to=people.lease,
        facts=facts.of_ending,
        stale_after=timedelta(hours=24),
    ),
    "lease.ended": Rule(template="lease_ended", to=people.lease, facts=facts.of_lease),
    "lease.cancelled": Rule(template="lease_cancelled", to=people.lease, facts=facts.of_lease),
    "lease.lapsed": Rule(
        template="lease_lapsed", to=people.lease_and_money, facts=facts.of_lease, wanted=_was_awaiting
    ),
    "lease.failed": Rule(template="lease_failed", to=people.lease, facts=facts.of_lease),
    "lease.shortfall_opened": Rule(
        template="lease_late", to=people.lease, facts=facts.of_shortfall, once_per=timedelta(minutes=15)
    ),
    "lease.shortfall_changed": Rule(
        template="lease_late", to=people.lease, facts=facts.of_shortfall, once_per=timedelta(minutes=15)
    ),
    "lease.shortfall_closed": Rule(
        template="lease_complete",
        to=people.lease,
        facts=facts.of_complete_lease,
        once_per=timedelta(minutes=15),
    ),
    # money
    "account.topped_up": Rule(
        template="top_up", to=people.money, facts=facts.of_top_up, stale_after=TWO_MONTHS
    ),
    "invoice.finalized": Rule(
        template="invoice_open", to=people.money, facts=facts.of_invoice, stale_after=TWO_MONTHS
    ),
    "invoice.paid": Rule(
        template="invoice_paid", to=people.money, facts=facts.of_invoice, stale_after=TWO_MONTHS
    ),
    "invoice.voided": Rule(
        template="invoice_void", to=people.money, facts=facts.of_invoice, stale_after=TWO_MONTHS
    ),
    # what our own people must look at: a promise or the books are in danger
    **{
        kind: Rule(template="staff_notice", to=people.staff, facts=facts.of_notice, once_per=DAY)
        for kind in (
            "audit.violated",
            "machine.lost",
            "machine.doubtful",
            "account.machines_missing",
            "launch.failed",
            "launch.in_doubt",
            "lease.network_failing",
            "turnover.failing",
            "orphan.seen",
            "orphan.too_many",
            "polling.stopped",
            "purchase.in_doubt",
            "purchase.failed",
            "purchase.differs",
            "reservation.differs",
        )
    },
}
