"""Write a checked answer as sets, and finish its poll run in the same transaction."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Max, Q

from inventory.answers import CheckedCatalog
from inventory.models import PollRun, ProviderAccount, Region, Zone
from inventory.prices import API, Teller, lock_catalog, write_offers
from portal.common.transactions import require_transaction

# An account without a complete poll for three intervals (at least an hour) has gone silent.
SILENT_POLLS = 3
SILENT = timedelta(hours=1)


def store_catalog(*, run: PollRun, checked: CheckedCatalog, now: datetime) -> None:
    """Part: store one region's answer and finish its run as complete or partial.

    The number of statements does not depend on the number of offers. What is unchanged
    is not written (P5); only a complete answer makes absent offers unavailable (P4).
    """
    require_transaction()
    region = checked.region
    lock_catalog(region.provider_id)
    _add_zones(region.pk, checked.zones)
    _update_types(checked.details)
    written = write_offers(
        rows=checked.offers,
        regions=[region.pk],
        source=API,
        now=now,
        teller=_teller(run.account, region, checked.complete, now),
    )
    run.state = PollRun.State.COMPLETE if checked.complete else PollRun.State.PARTIAL
    run.finished_at = now
    run.offers_seen = checked.seen
    run.offers_written = written.added + written.changed
    run.prices_written = written.prices
    run.unknown_types = list(checked.unknown_types)
    run.error = checked.problems.text()
    run.save()


def _teller(account: ProviderAccount, region: Region, complete: bool, now: datetime) -> Teller:
    """Return whose poll this is, beside the provider's accounts polled here completely of late."""
    here = Q(poll_runs__region=region, poll_runs__state=PollRun.State.COMPLETE)
    others = (
        ProviderAccount.objects.filter(provider_id=region.provider_id, enabled=True)
        .exclude(pk=account.pk)
        .values_list("pk", "poll_interval")
        .annotate(last=Max("poll_runs__finished_at", filter=here))
    )
    heard = [pk for pk, every, last in others if last and last > now - max(every * SILENT_POLLS, SILENT)]
    return Teller(account.pk, tuple(heard), complete=complete, alone=not others)


def _add_zones(region_id: int, codes: tuple[str, ...]) -> None:
    known = set(Zone.objects.filter(region_id=region_id).values_list("code", flat=True))
    Zone.objects.bulk_create(
        [Zone(region_id=region_id, code=code) for code in codes if code not in known], ignore_conflicts=True
    )


def _update_types(details: tuple[dict[str, int | None], ...]) -> None:
    if not details:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE inventory_instancetype t
            SET vcpus = coalesce(n.vcpus, t.vcpus), memory_gib = coalesce(n.memory_gib, t.memory_gib)
            FROM jsonb_to_recordset(%s::jsonb) AS n(id bigint, vcpus integer, memory_gib integer)
            WHERE t.id = n.id AND (t.vcpus, t.memory_gib)
                IS DISTINCT FROM (coalesce(n.vcpus, t.vcpus), coalesce(n.memory_gib, t.memory_gib))
            """,
            [json.dumps(details)],
        )
