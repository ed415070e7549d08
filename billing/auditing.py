"""Every invariant of the product, checked against the data as it is."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import connection, transaction

from billing import audit as money
from billing.vendor import audit as vendor
from inventory import audit as supply
from leases import audit as promises
from leases.buying import audit as buying
from leases.provisioning import audit as machines
from portal.accounts import events
from portal.common.audit import Check, Outcome
from portal.common.transactions import durable

log = logging.getLogger(__name__)


def all_checks() -> list[Check]:
    """Return the checks of every app: C, P, M, then V."""
    return [*promises.CHECKS, *machines.CHECKS, *buying.CHECKS, *supply.CHECKS, *money.CHECKS, *vendor.CHECKS]


def run_all(*, only: frozenset[str] = frozenset()) -> list[Outcome]:
    """Run the checks (all, or those whose ids are in ``only``) on one snapshot of the database.

    Reads only: the transaction is READ ONLY and REPEATABLE READ, so that a change
    in the middle cannot look like a violation.
    """
    chosen = [check for check in all_checks() if not only or check.id in only]
    with transaction.atomic():
        with connection.cursor() as cursor:
            if not connection.savepoint_ids:  # a surrounding transaction keeps its own isolation
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        outcomes = [check.outcome() for check in chosen]
    return sorted(outcomes, key=lambda outcome: ("CPMV".find(outcome.id[:1]), outcome.id))


def audit_and_report(*, now: datetime) -> list[Outcome]:
    """Public: run every check and append an event for staff when one is violated."""
    outcomes = run_all()
    broken = [outcome for outcome in outcomes if outcome.violations]
    if broken:
        log.error("audit_violations", extra={"invariants": [outcome.id for outcome in broken]})
        with durable():
            events.record(
                kind="audit.violated",
                subject_type="audit",
                subject_id=f"{now:%Y-%m-%dT%H:%M}",
                now=now,
                after={outcome.id: outcome.violations for outcome in broken},
                message=", ".join(f"{outcome.id}: {outcome.violations}" for outcome in broken),
            )
    return outcomes
