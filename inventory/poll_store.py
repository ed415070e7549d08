"""Write a checked answer as sets, and finish its poll run in the same transaction."""

from __future__ import annotations

import json
from datetime import datetime

from django.db import connection

from inventory.answers import CheckedCatalog
from inventory.models import PollRun, ProviderAccount, Zone
from inventory.prices import (
    API,
    NewPrice,
    lock_catalog,
    offer_ids,
    set_prices,
    withdraw_others,
    write_offers,
)
from portal.common.transactions import require_transaction


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
    rows = [offer.row for offer in checked.offers]
    written = write_offers(rows=rows, signals=True, now=now)
    ids = offer_ids(rows)
    if checked.complete and _only_account(run.account):
        written += withdraw_others(region_id=region.pk, seen={ids[row.key] for row in rows}, now=now)
    prices = set_prices(
        prices=[
            NewPrice(offer_id=ids[offer.row.key], price=offer.price, currency=offer.currency)
            for offer in checked.offers
            if offer.price is not None
        ],
        source=API,
        now=now,
    )
    run.state = PollRun.State.COMPLETE if checked.complete else PollRun.State.PARTIAL
    run.finished_at = now
    run.offers_seen = checked.seen
    run.offers_written = written
    run.prices_written = prices
    run.unknown_types = list(checked.unknown_types)
    run.error = checked.error()
    run.save()


def _only_account(account: ProviderAccount) -> bool:
    """Return whether nobody else polls this provider: two accounts may be shown different offers."""
    others = ProviderAccount.objects.filter(provider_id=account.provider_id, enabled=True)
    return not others.exclude(pk=account.pk).exists()


def _add_zones(region_id: int, codes: tuple[str, ...]) -> None:
    known = set(Zone.objects.filter(region_id=region_id).values_list("code", flat=True))
    Zone.objects.bulk_create(
        [Zone(region_id=region_id, code=code) for code in codes if code not in known], ignore_conflicts=True
    )


def _update_types(details: tuple[dict[str, int], ...]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE inventory_instancetype t SET vcpus = n.vcpus, memory_gib = n.memory_gib
            FROM jsonb_to_recordset(%s::jsonb) AS n(id bigint, vcpus integer, memory_gib integer)
            WHERE t.id = n.id AND (t.vcpus, t.memory_gib) IS DISTINCT FROM (n.vcpus, n.memory_gib)
            """,
            [json.dumps(details)],
        )
