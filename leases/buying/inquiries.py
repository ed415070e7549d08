"""What each cloud would charge: its list prices at once, and the reservations that it would sell.

Asking a provider takes seconds and may fail, so it is done by a sweep outside of any
transaction; the list prices are there immediately.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from django.db.models import Q
from django.utils.translation import gettext as _

from inventory.fleet import freshness
from inventory.models import GpuModel, InstanceType, Offer, ProviderAccount, Region
from inventory.providers import base
from inventory.providers.errors import ProviderError
from leases.models import CapacityChoice, CapacityInquiry
from leases.provisioning import upstream
from leases.provisioning.claims import Claimed, Clock, claim_next, release
from portal.accounts.models import User
from portal.common.errors import InvalidInput
from portal.common.money import ledger
from portal.common.nudge import nudge
from portal.common.periods import Period, period
from portal.common.transactions import durable

MOST_GPUS, MOST_HOURS = 80_000, 5 * 366 * 24
REGIONS_SHOWN = 3  # the cheapest regions of a cloud, per purchase option
QUESTIONS = 12  # calls to one account about one inquiry
ANSWERS = 8  # offerings kept of one call
KEEP = timedelta(days=90)


def ask(
    *,
    gpu_model: str,
    gpus: int,
    hours: int,
    start: datetime,
    end: datetime,
    actor: User | None,
    now: datetime,
    gpus_per_node: int = 1,
) -> CapacityInquiry:
    """Ask for ``gpus`` GPUs (whole nodes of them) for ``hours`` between two moments (UTC).

    Nodes with fewer than ``gpus_per_node`` GPUs are left out. The list prices are stored at once, the reservations by :func:`answer_due`. Raises
    :class:`InvalidInput` naming the field.
    """
    model = GpuModel.objects.filter(slug=gpu_model).first()
    if model is None:
        raise InvalidInput(_("Choose a GPU model from the catalog."), field="gpu_model")
    if not 1 <= gpus <= MOST_GPUS:
        raise InvalidInput(_("Ask for 1 to %(n)s GPUs.") % {"n": MOST_GPUS}, field="gpus")
    if not 1 <= gpus_per_node <= gpus:
        raise InvalidInput(
            _("A node has at least 1 GPU, and no more than are asked for."), field="gpus_per_node"
        )
    if not 1 <= hours <= MOST_HOURS:
        raise InvalidInput(_("Ask for 1 hour to five years."), field="hours")
    window = period(start, end)
    if window.upper <= now:
        raise InvalidInput(_("The window is over. Choose a later end."), field="end")
    if window.upper - max(window.lower, now) < timedelta(hours=hours):
        raise InvalidInput(_("The window is shorter than the hours asked for."), field="end")
    with durable():
        inquiry = CapacityInquiry.objects.create(
            gpu_model=model,
            gpus=gpus,
            gpus_per_node=gpus_per_node,
            hours=hours,
            window=window,
            asked_by=actor,
            created_at=now,
        )
        CapacityChoice.objects.bulk_create(_list_prices(inquiry, now))
        nudge("leases.tasks.answer_inquiries")
    return inquiry


def forget_old(*, now: datetime) -> int:
    """Delete inquiries of more than 90 days of which nothing was taken; return how many."""
    with durable():
        old = CapacityInquiry.objects.filter(created_at__lt=now - KEEP, choices__taken=None).exclude(
            choices__taken__isnull=False
        )
        return old.delete()[1].get("leases.CapacityInquiry", 0)


def nodes_for(gpus: int, instance_type: InstanceType) -> int:
    """Return how many whole nodes hold that many GPUs."""
    return math.ceil(gpus / instance_type.gpus_per_node)


def _fitting(inquiry: CapacityInquiry) -> Q:
    return Q(
        instance_type__gpu_model=inquiry.gpu_model, instance_type__gpus_per_node__gte=inquiry.gpus_per_node
    )


def _begins(inquiry: CapacityInquiry, now: datetime) -> datetime:
    """Return when the capacity would begin at list price: as early as the window allows."""
    return max(cast(datetime, inquiry.window.lower), now)


def _list_prices(inquiry: CapacityInquiry, now: datetime) -> Iterator[CapacityChoice]:
    """Yield the cheapest regions' list prices of every cloud. Spot is no capacity to promise."""
    offers = list(
        Offer.objects.filter(_fitting(inquiry), price__isnull=False)
        .exclude(purchase=Offer.Purchase.SPOT)
        .exclude(Q(availability=Offer.Availability.UNAVAILABLE) & Q(purchase=Offer.Purchase.RESERVED))
        .select_related("instance_type__provider", "region")
    )
    seen = freshness(offers)
    begins = _begins(inquiry, now)
    by_cloud: dict[tuple[int, str], list[tuple[Decimal, Offer, int]]] = defaultdict(list)
    for offer in offers:
        nodes = nodes_for(inquiry.gpus, offer.instance_type)
        total = ledger(cast(Decimal, offer.price) * nodes * inquiry.hours)
        by_cloud[offer.instance_type.provider_id, offer.purchase].append((total, offer, nodes))
    accounts = list(ProviderAccount.objects.filter(enabled=True).order_by("-resale_allowed", "pk"))
    for (_provider, purchase), found in by_cloud.items():
        regions: set[int] = set()
        for total, offer, nodes in sorted(found, key=lambda each: (each[0], each[1].pk)):
            if offer.region_id in regions or len(regions) == REGIONS_SHOWN:
                continue
            regions.add(offer.region_id)
            yield CapacityChoice(
                inquiry=inquiry,
                account=_account_for(offer, accounts),
                instance_type=offer.instance_type,
                region=offer.region,
                zone_code=offer.zones[0] if offer.zones else "",
                purchase=purchase,
                nodes=nodes,
                period=Period(begins, begins + timedelta(hours=inquiry.hours), "[)"),
                total=total,
                currency=offer.currency,
                availability=offer.availability,
                seen_at=seen[offer.pk].price_at(offer.price_source),
            )


def _account_for(offer: Offer, accounts: list[ProviderAccount]) -> ProviderAccount | None:
    """Return the account to buy the offer with: of its provider, and for its region where it names some."""
    for account in accounts:
        regions = account.options.get("regions") or []
        if account.provider_id == offer.region.provider_id and (not regions or offer.region.code in regions):
            return account
    return None


def answer_due(*, now: datetime) -> int:
    """Ask every cloud that sells reservations about the open inquiries; return how many were answered.

    Safe twice at once: an inquiry that somebody works on is skipped, and answers are stored
    only where the claim is still ours, all at once.
    """
    clock, providers, answered = Clock(now), upstream.Providers(), 0
    rows = CapacityInquiry.objects.filter(answered_at=None).select_related("gpu_model").order_by("pk")
    while claimed := claim_next(rows, clock=clock):
        choices: list[CapacityChoice] = []
        problems: list[str] = []
        for account in ProviderAccount.objects.filter(enabled=True).select_related("provider").order_by("pk"):
            if account.provider.kind and account.credentials:
                _ask_account(claimed, account, providers, clock, choices, problems)
        with durable():
            row = claimed.still_ours()
            if row is None:
                continue
            release(row)
            row.answered_at, row.problems = clock(), problems
            row.save()
            CapacityChoice.objects.bulk_create(choices)
            answered += 1
    return answered


def _ask_account(
    claimed: Claimed[CapacityInquiry],
    account: ProviderAccount,
    providers: upstream.Providers,
    clock: Clock,
    choices: list[CapacityChoice],
    problems: list[str],
) -> None:
    inquiry = claimed.row
    try:
        with providers.of(account) as provider:
            if base.Capability.BUYABLE_CAPACITY not in provider.capabilities:
                return
        for instance_type, region in _questions(inquiry, account):
            if not claimed.extend(clock):
                return
            request = base.CapacityRequest(
                instance_type=instance_type.name,
                region=region.code,
                count=nodes_for(inquiry.gpus, instance_type),
                hours=inquiry.hours,
                earliest=_begins(inquiry, clock()),
                latest=inquiry.window.upper,
            )
            with providers.of(account) as provider:
                offerings = list(cast(base.CapacitySeller, provider).capacity_offerings(request))[:ANSWERS]
            choices += [
                choice
                for offering in offerings
                if (choice := _choice(inquiry, account, instance_type, region, offering, clock())) is not None
            ]
    except ProviderError as error:
        problems.append(f"{account}: {error}")


def _questions(inquiry: CapacityInquiry, account: ProviderAccount) -> list[tuple[InstanceType, Region]]:
    """Return the types and regions to ask about: those that the provider's catalog lists, cheapest first."""
    offers = (
        Offer.objects.filter(_fitting(inquiry), instance_type__provider=account.provider_id)
        .select_related("instance_type", "region")
        .order_by("price", "pk")
    )
    wanted = account.options.get("regions") or []
    pairs = {
        (offer.instance_type_id, offer.region_id): (offer.instance_type, offer.region)
        for offer in offers
        if not wanted or offer.region.code in wanted
    }
    return list(pairs.values())[:QUESTIONS]


def _choice(
    inquiry: CapacityInquiry,
    account: ProviderAccount,
    instance_type: InstanceType,
    region: Region,
    offering: base.CapacityOffering,
    now: datetime,
) -> CapacityChoice | None:
    """Return the offering as a choice, or None for one that makes no sense."""
    if not _sound(offering):
        return None
    fits = offering.instance_type == instance_type.name and offering.region == region.code
    if not fits or not 0 < len(offering.id) <= 200 or offering.count < 1 or offering.start >= offering.end:
        return None
    return CapacityChoice(
        inquiry=inquiry,
        account=account,
        instance_type=instance_type,
        region=region,
        zone_code=offering.zone[:60],
        offering_id=offering.id,
        purchase=Offer.Purchase.RESERVED,
        nodes=offering.count,
        period=period(offering.start, offering.end),
        total=ledger(offering.total) if offering.total else None,
        upfront=ledger(offering.upfront) if offering.upfront is not None else None,
        currency=offering.currency.upper()[:3],
        availability=Offer.Availability.AVAILABLE,
        seen_at=now,
    )


def _sound(offering: Any) -> bool:
    """Tell whether an offering is what an adapter promises: it may come from another package."""
    return (
        isinstance(offering, base.CapacityOffering)
        and isinstance(offering.id, str)
        and isinstance(offering.zone, str)
        and isinstance(offering.currency, str)
        and isinstance(offering.count, int)
        and all(
            isinstance(moment, datetime) and moment.tzinfo is not None
            for moment in (offering.start, offering.end)
        )
        and all(
            amount is None or (isinstance(amount, Decimal) and amount.is_finite() and 0 <= amount < 10**11)
            for amount in (offering.total, offering.upfront)
        )
    )
