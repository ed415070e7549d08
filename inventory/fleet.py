"""Facts about what we hold and how fresh our knowledge of the market is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max
from django.utils.translation import gettext as _

from inventory.models import Node, Offer, PollRun
from portal.common.errors import InvalidInput
from portal.common.freshness import API
from portal.common.periods import Period, period
from portal.common.transactions import require_transaction


@dataclass(frozen=True, slots=True)
class Freshness:
    """When an offer was last confirmed: by its account's last complete poll of its region, and its price."""

    polled_at: datetime | None  # None: never polled completely, known from a rate card
    price_seen_at: datetime | None

    def price_at(self, source: str) -> datetime | None:
        """Return how old the price is: as a poll's answer as the last poll, as a card's as the card."""
        if source == API and self.price_seen_at and self.polled_at:
            return max(self.price_seen_at, self.polled_at)
        return self.price_seen_at

    def age(self, now: datetime) -> timedelta | None:
        """Return the age of the availability signal, or None where nothing was polled."""
        return max(now - self.polled_at, timedelta()) if self.polled_at else None


def freshness(offers: Iterable[Offer]) -> dict[int, Freshness]:
    """Return each offer's freshness by offer id, with one query for all of them.

    The age is that of the last *complete* poll of the region by the account that tells
    about the offer, or by any where none does (P4): a poll that failed or returned half
    refreshes nothing.
    """
    offers = list(offers)
    complete = PollRun.objects.filter(
        state=PollRun.State.COMPLETE, region_id__in={offer.region_id for offer in offers}
    )
    polled: dict[tuple[int | None, int | None], datetime] = {}
    for account, region, last in complete.values_list("account_id", "region_id").annotate(
        last=Max("finished_at")
    ):
        polled[account, region] = last
        polled[None, region] = max(last, polled.get((None, region), last))
    return {
        offer.pk: Freshness(polled.get((offer.account_id, offer.region_id)), offer.price_seen_at)
        for offer in offers
    }


def set_available(node: Node, available: Period) -> None:
    """Part: give a locked node another period in which it can be promised.

    The database refuses it while an allocation lies outside (C2): whoever shortens a
    node first moves its allocations or opens shortfalls, in the same transaction.
    Raises :class:`InvalidInput` for naive times and for an end that is not after the start.
    """
    require_transaction()
    if not available.lower or not available.upper:
        raise InvalidInput(_("A node’s period needs a start and an end."), field="available")
    node.available = period(available.lower, available.upper)
    node.save(update_fields=["available"])
