"""Search with prices: leases finds where a request fits, billing says what it would cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils.translation import gettext as _

from billing.pricing import NoPrice, price
from leases import search as capacity
from leases.alternatives import Alternative
from leases.buying import unmet
from leases.requests import CapacityRequest
from portal.accounts.models import Organization
from portal.common.errors import InvalidInput

MOST_SLOTS = 24


@dataclass(frozen=True)
class PricedSlot:
    """A stretch of possible starts in one region; ``total`` is for the whole request, before tax.

    ``rate_per_gpu_hour`` and ``total`` are ``None`` where no price rule applies.
    """

    request: CapacityRequest
    nodes_free: int
    latest_start: datetime
    rate_per_gpu_hour: Decimal | None
    total: Decimal | None
    currency: str

    @property
    def start(self) -> datetime:
        """The earliest start, UTC."""
        return self.request.start

    @property
    def end(self) -> datetime:
        """The end that belongs to ``start``, UTC."""
        return self.request.end

    @property
    def region(self) -> str | None:
        """``provider/code``."""
        return self.request.region


@dataclass(frozen=True)
class Found:
    """Where the request fits; where it does not fit at all, what nearly does."""

    slots: list[PricedSlot]
    alternatives: list[Alternative]


def search(
    *, organization: Organization, request: CapacityRequest, hours: int | None = None, now: datetime
) -> Found:
    """Find room for the request, with what it would cost this organization.

    ``request.start`` and ``request.end`` (UTC) are the window: with ``hours`` the lease
    lasts that long anywhere inside of it, without it fills it. The cheapest slot comes
    first, then the earliest. A search that finds nothing is kept, without who asked
    (:mod:`leases.buying.unmet`). Raises :class:`InvalidInput` naming the field.
    """
    request = request.clean(now)
    length = timedelta(hours=hours) if hours else request.duration
    if length > request.duration:
        raise InvalidInput(_("The window from start to end is shorter than the lease."), field="hours")
    slots = capacity.find_starts(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        nodes=request.nodes,
        hours=length.total_seconds() / 3600,
        earliest=request.start,
        latest=max(request.end - length, request.start),
        region=request.region,
        one_fabric=request.one_fabric,
        stack=request.stack,
        now=now,
    )
    priced = [
        _priced(
            replace(request, start=slot.start, end=slot.start + length, region=slot.region),
            slot=slot,
            organization=organization,
            now=now,
        )
        for slot in slots[:MOST_SLOTS]
    ]
    priced.sort(key=lambda slot: (slot.total is None, slot.total or Decimal(0), slot.start))
    if priced:
        return Found(priced, [])
    unmet.keep_search(request=request, hours=length.total_seconds() / 3600, now=now)
    wanted = replace(request, end=request.start + length)
    return Found([], capacity.near_misses(wanted, now))


def _priced(
    request: CapacityRequest, *, slot: capacity.Slot, organization: Organization, now: datetime
) -> PricedSlot:
    try:
        cost = price(request=request, organization=organization, now=now)
    except NoPrice:
        return PricedSlot(request, slot.nodes_free, slot.latest_start, None, None, "")
    return PricedSlot(
        request, slot.nodes_free, slot.latest_start, cost.rate_per_gpu_hour, cost.total, cost.currency
    )
