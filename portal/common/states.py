"""One mapping from a state to its tone, for pills, timelines and the admin."""

from __future__ import annotations

from typing import Final

from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

GOOD, WARN, BAD, INFO, NEUTRAL = "good", "warn", "bad", "info", "neutral"

# state -> (tone, label). A model's own get_state_display() may replace the label.
STATES: Final[dict[str, tuple[str, str | Promise]]] = {
    # leases, holds and quotes
    "held": (INFO, _("Held")),
    "awaiting": (WARN, _("Awaiting")),
    "scheduled": (INFO, _("Scheduled")),
    "provisioning": (INFO, _("Provisioning")),
    "active": (GOOD, _("Active")),
    "ending": (WARN, _("Ending")),
    "ended": (NEUTRAL, _("Ended")),
    "lapsed": (NEUTRAL, _("Lapsed")),
    "cancelled": (NEUTRAL, _("Cancelled")),
    "failed": (BAD, _("Failed")),
    "offered": (INFO, _("Offered")),
    "accepted": (GOOD, _("Accepted")),
    "expired": (NEUTRAL, _("Expired")),
    "revoked": (NEUTRAL, _("Revoked")),
    "shortfall": (BAD, _("Shortfall")),
    # invoices and bills
    "draft": (NEUTRAL, _("Draft")),
    "open": (INFO, _("Open")),
    "paid": (GOOD, _("Paid")),
    "overdue": (BAD, _("Overdue")),
    "void": (NEUTRAL, _("Void")),
    "credited": (NEUTRAL, _("Credited")),
    # organizations and people
    "pending": (WARN, _("Pending")),
    "approved": (GOOD, _("Approved")),
    "restricted": (WARN, _("Restricted")),
    "suspended": (BAD, _("Suspended")),
    # supply
    "healthy": (GOOD, _("Healthy")),
    "degraded": (WARN, _("Degraded")),
    "unhealthy": (BAD, _("Unhealthy")),
    "draining": (WARN, _("Draining")),
    "retired": (NEUTRAL, _("Retired")),
    "signed": (INFO, _("Signed")),
    "delivered": (GOOD, _("Delivered")),
    # machines and polls
    "launching": (INFO, _("Launching")),
    "running": (GOOD, _("Running")),
    "stopping": (WARN, _("Stopping")),
    "terminated": (NEUTRAL, _("Terminated")),
    "orphan": (BAD, _("Orphan")),
    "ok": (GOOD, _("OK")),
    "complete": (GOOD, _("Complete")),
    "partial": (WARN, _("Partial")),
    "stale": (WARN, _("Stale")),
    # findings
    "disputed": (WARN, _("Disputed")),
    "settled": (GOOD, _("Settled")),
    "cured": (GOOD, _("Cured")),
    "matched": (GOOD, _("Matched")),
}


def tone_of(state: str) -> str:
    """Return the tone of ``state``; an unknown state is neutral."""
    return STATES.get(state, (NEUTRAL, ""))[0]


def label_of(state: str) -> str:
    """Return the state's word for people; an unknown state is shown as it is."""
    known = STATES.get(state)
    return str(known[1]) if known else state.replace("_", " ").replace("-", " ").capitalize()


def status_pill(state: str, label: str | Promise = "", tone: str = "") -> SafeString:
    """Return ``state`` as a pill: for ``list_display`` and read-only fields of the admin.

    Templates write ``{% status state %}``.
    """
    return format_html(
        '<span class="sb-pill" data-tone="{}">{}</span>', tone or tone_of(state), label or label_of(state)
    )
