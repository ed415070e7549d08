"""Telling customers that a lease ends: 24 hours, 2 hours, 30 and 5 minutes before, once each."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef
from django.utils.translation import ngettext

from leases.models import EndNotice, Lease, Term
from leases.provisioning.facts import RUNS, lease_end
from leases.provisioning.messages import tell_customer
from portal.common.transactions import durable

LEADS = (1440, 120, 30, 5)  # minutes before the end


def notify_due(*, now: datetime) -> int:
    """Announce the ends that are near; return how many customers were told.

    Safe twice at once. After an outage only the nearest announcement is made: the ones
    that are overtaken are marked as done and not sent. A lease shorter than a lead time
    is not announced before it began.
    """
    soon = Term.objects.filter(
        lease=OuterRef("pk"),
        period__endswith__gt=now,
        period__endswith__lte=now + timedelta(minutes=LEADS[0]),
    )
    leases = Lease.objects.filter(Exists(soon), state__in=RUNS).order_by("pk")
    return sum(_notify(pk, now) for pk in leases.values_list("pk", flat=True))


def _notify(pk: int, now: datetime) -> bool:
    with durable():
        rows = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        lease = rows.filter(pk=pk, state__in=RUNS).first()
        if lease is None:
            return False
        ends_at = lease_end(lease)
        begins_at = min(term.period.lower for term in lease.terms.all())
        reached = [
            minutes for minutes in LEADS if begins_at <= ends_at - timedelta(minutes=minutes) <= now < ends_at
        ]
        told = set(
            EndNotice.objects.filter(lease=lease, ends_at=ends_at).values_list("minutes_before", flat=True)
        )
        missing = [minutes for minutes in reached if minutes not in told]
        EndNotice.objects.bulk_create(
            EndNotice(lease=lease, ends_at=ends_at, minutes_before=minutes, sent_at=now)
            for minutes in missing
        )
        if not missing or min(missing) != min(reached):
            return False
        left = max(1, round((ends_at - now).total_seconds() / 60))
        tell_customer(
            lease=lease,
            kind="lease.ends_soon",
            message=_in_words(left),
            now=now,
            after={"ends_at": ends_at.isoformat(), "minutes_before": min(missing)},
        )
        return True


def _in_words(minutes: int) -> str:
    if minutes >= 120:
        hours = round(minutes / 60)
        return ngettext(
            "The lease ends in %(n)d hour. Save your work: local data is wiped.",
            "The lease ends in %(n)d hours. Save your work: local data is wiped.",
            hours,
        ) % {"n": hours}
    return ngettext(
        "The lease ends in %(n)d minute. Save your work: local data is wiped.",
        "The lease ends in %(n)d minutes. Save your work: local data is wiped.",
        minutes,
    ) % {"n": minutes}
