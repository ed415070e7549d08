"""Bills that have work left, found by their state."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q

from billing.models import Finding, VendorBill
from billing.vendor import matching
from portal.common.errors import Conflict


def reconcile_due(*, now: datetime) -> int:
    """Classify what only landed, and again what misses hours that a provider bills late.

    A process that died between landing and classifying left a bill ``landed``; hours
    missing from a bill are provisional until the provider's latency has passed, and only
    looking again makes them material. Returns how many bills were classified.
    """
    provisional = Finding.objects.filter(
        account=OuterRef("account"),
        month=OuterRef("month"),
        finding_class=Finding.Class.LEASED_NOT_BILLED,
        state=Finding.State.OPEN,
        material=False,
    )
    due = VendorBill.objects.filter(
        Q(state=VendorBill.State.LANDED) | Q(Exists(provisional), state=VendorBill.State.CLASSIFIED)
    )
    done = 0
    for pk in due.order_by("pk").values_list("pk", flat=True):
        try:
            matching.classify(bill_id=pk, now=now)
            done += 1
        except Conflict:  # approved or replaced meanwhile
            continue
    return done
