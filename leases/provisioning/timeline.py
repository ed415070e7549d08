"""What happened to a lease, for its page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext_lazy as _

from leases.models import Lease
from portal.accounts.models import Event

STAFF = _("our staff")  # customers deal with the reseller, not with the address of one of its people
STATES = frozenset(Lease.State.values)
TITLES = {
    "lease.machine_launched": _("Server starting"),
    "lease.node_delivered": _("Server ready"),
    "lease.machine_stopped": _("Server shut down"),
    "lease.launch_retried": _("Launch tried again"),
    "lease.shortfall_opened": _("Server missing"),
    "lease.shortfall_changed": _("Server still missing"),
    "lease.shortfall_closed": _("Missing server delivered"),
    "lease.ends_soon": _("Ends soon"),
}


@dataclass(frozen=True)
class Entry:
    """One thing that happened. ``state`` is the state reached, where the event is a change of state."""

    at: datetime
    kind: str  # "lease.active", "lease.node_delivered"
    state: str
    title: str
    message: str
    by: str


def timeline(lease: Lease, *, limit: int = 200) -> list[Entry]:
    """Return the lease's events that its organization may see, the newest first (times in UTC).

    Events for staff only (without an organization) are left out.
    """
    found = (
        Event.objects.filter(subject_type="lease", subject_id=lease.uid, organization=lease.organization_id)
        .select_related("actor")
        .order_by("-pk")[:limit]
    )
    return [_entry(event) for event in found]


def _entry(event: Event) -> Entry:
    word = event.kind.rpartition(".")[2]
    state = word if word in STATES and event.kind.startswith("lease.") else ""
    return Entry(
        at=event.at,
        kind=event.kind,
        state=state,
        title=_title(event.kind, word, state),
        message=event.message,
        by=str(STAFF) if event.actor is not None and event.actor.is_staff else event.actor_label,
    )


def _title(kind: str, word: str, state: str) -> str:
    if state:
        return str(Lease.State(state).label)
    return str(TITLES.get(kind, word.replace("_", " ").replace("-", " ").capitalize()))
