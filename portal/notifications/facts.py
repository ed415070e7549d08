"""What a mail tells: read when it is sent, so that it never tells of what is over.

Each function returns the template's context, or ``None`` when there is nothing to
tell any more. Times are aware UTC; the template writes them in the recipient's zone.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urljoin

from django.conf import settings
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from billing.models import BillingAccount, Invoice, Quote
from leases.models import Lease, Shortfall, Term
from portal.accounts import invitations
from portal.accounts.models import ApiToken, Event, Invitation
from portal.common.money import format_money
from portal.common.quantities import format_gpus

# Where a person goes on from a mail about such a thing.
PAGES = {"membership": "dashboard:team", "api_token": "dashboard:api-tokens"}


def page(name: str, *args: str) -> str:
    """Return the full address of a page; the home page where this installation has no such page."""
    try:
        path = reverse(name, args=args)
    except NoReverseMatch:
        path = "/"
    return urljoin(settings.SUBLET_PUBLIC_URL, path)


def of_event(event: Event) -> dict[str, Any] | None:
    """What every mail knows."""
    return {
        "event": event,
        "organization": event.organization,
        "by": event.actor_label,
        "before": event.before,
        "after": event.after,
        "message": event.message,
        "url": page(PAGES.get(event.subject_type, "dashboard:home")),
    } | _token(event)


def of_notice(event: Event) -> dict[str, Any] | None:
    """What staff must know: the event as it is, and where to look at it."""
    return {
        "event": event,
        "message": event.message,
        "details": [f"{name}: {value}" for name, value in event.after.items()],
        "url": page("admin:accounts_event_change", str(event.pk)),
    }


def of_invitation(event: Event) -> dict[str, Any] | None:
    """The invitation with its link, which is in no event: it is opened here, for the mail alone."""
    invitation = (
        Invitation.objects.select_related("organization", "invited_by").filter(uid=event.subject_id).first()
    )
    if invitation is None:
        return None
    try:
        invitations.check_open(invitation, now=timezone.now())
    except invitations.InvitationOver:
        return None
    token = invitations.link_token(invitation)
    if token is None:
        return None
    return {
        "organization": invitation.organization,
        "invitation": invitation,
        "by": invitation.invited_by.get_full_name(),
        "url": page("accounts:invitation", token),
    }


def of_lease(event: Event) -> dict[str, Any] | None:
    """The lease with what and when it was promised."""
    lease = Lease.objects.select_related("organization", "project").filter(uid=event.subject_id).first()
    if lease is None:
        return None
    terms = list(Term.objects.filter(lease=lease).select_related("gpu_model", "region"))
    about: dict[str, Any] = {
        "organization": lease.organization,
        "lease": lease,
        "message": event.message,
        "after": event.after,
        "url": page("dashboard:lease", lease.uid),
    }
    if terms:
        last = terms[-1]
        about |= {
            "what": format_gpus(last.nodes * last.gpus_per_node, model=last.gpu_model.name),
            "nodes": last.nodes,
            "region": last.region,
            "start": min(term.period.lower for term in terms),
            "end": max(term.period.upper for term in terms),
        }
    return about


def of_awaiting(event: Event) -> dict[str, Any] | None:
    """A lease that waits for funds, while it still does."""
    about = of_lease(event)
    if about is None or about["lease"].state != Lease.State.AWAITING:
        return None
    return about | {"deadline": about["lease"].deadline, "url": page("dashboard:lease", about["lease"].uid)}


def of_ending(event: Event) -> dict[str, Any] | None:
    """A lease whose end is near, until it has come."""
    about = of_lease(event)
    if about is None:
        return None
    ends_at = datetime.fromisoformat(event.after["ends_at"]) if "ends_at" in event.after else about.get("end")
    if ends_at is None or ends_at <= timezone.now():
        return None
    return about | {"ends_at": ends_at}


def of_shortfall(event: Event) -> dict[str, Any] | None:
    """What is missing now, however many events told of it."""
    about = of_lease(event)
    if about is None:
        return None
    missing = list(
        Shortfall.objects.filter(lease=about["lease"], closed_at=None)
        .order_by("period")
        .only("detail", "period")
    )
    if not missing:
        return None
    return about | {
        "missing": len(missing),
        "since": missing[0].period.lower,
        "reasons": list(dict.fromkeys(row.detail for row in missing if row.detail)),
    }


def of_complete_lease(event: Event) -> dict[str, Any] | None:
    """A lease that has all its nodes again, if it really has."""
    about = of_lease(event)
    if about is None or about["lease"].state not in (Lease.State.ACTIVE, Lease.State.PROVISIONING):
        return None
    if Shortfall.objects.filter(lease=about["lease"], closed_at=None).exists():
        return None
    return about


def of_quote(event: Event) -> dict[str, Any] | None:
    """A quote that staff prepared, while it can be accepted."""
    quote = Quote.objects.select_related("organization", "lease").filter(uid=event.subject_id).first()
    if quote is None or quote.state != Quote.State.OPEN or quote.expires_at <= timezone.now():
        return None
    return {
        "organization": quote.organization,
        "quote": quote,
        "total": format_money(quote.total, quote.currency),
        "url": page("dashboard:quote", quote.uid),
    }


def of_invoice(event: Event) -> dict[str, Any] | None:
    """An invoice with its total."""
    invoice = Invoice.objects.select_related("organization").filter(uid=event.subject_id).first()
    if invoice is None:
        return None
    return {
        "organization": invoice.organization,
        "invoice": invoice,
        "total": format_money(invoice.total, invoice.currency),
        "message": event.message,
        "url": page("dashboard:invoice", invoice.uid),
    }


def of_top_up(event: Event) -> dict[str, Any] | None:
    """Money that arrived, and the balance it made."""
    about = of_event(event)
    account = BillingAccount.objects.filter(organization=event.organization_id).first()
    if about is None or account is None:
        return None
    return about | {
        "amount": format_money(Decimal(event.after["amount"]), account.currency),
        "balance": format_money(Decimal(event.after["balance"]), account.currency),
        "reference": event.after.get("reference", ""),
        "url": page("dashboard:invoices"),
    }


def _token(event: Event) -> dict[str, Any]:
    if event.subject_type != "api_token":
        return {}
    return {"token": ApiToken.objects.filter(uid=event.subject_id).first()}
