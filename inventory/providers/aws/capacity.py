"""Reserved capacity: Capacity Blocks for ML, and On-Demand Capacity Reservations.

A block is bought for a fixed time and paid at once; AWS ends its machines 30 minutes
before its end. A reservation on demand begins now, where there is room, and costs the
on-demand price of every hour until its end, used or not.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-capacity-blocks.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-capacity-reservations.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from django.utils.translation import gettext as _

from inventory.providers.aws import catalog, prices
from inventory.providers.aws.errors import translated
from inventory.providers.aws.session import AwsSession, tag_list, tags_of, utc
from inventory.providers.base import TAG_TOKEN, CapacityOffering, CapacityRequest, Reservation
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.fields import get

T = TypeVar("T")

LINUX = "Linux/UNIX"
OFFERINGS, RESERVATIONS, TYPES = (
    "describe_capacity_block_offerings",
    "describe_capacity_reservations",
    "describe_instance_types",
)
BUY_BLOCK, RESERVE = "purchase_capacity_block", "create_capacity_reservation"
CAPACITY_BLOCK = "capacity-block"

# Of one block: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeCapacityBlockOfferings.html
MOST_IN_BLOCK = 64
DAYS_OF_BLOCK = (*range(1, 15), *range(21, 183, 7))
# Blocks end at fixed hours of the day, so that one which begins at once is a little shorter than asked.
SHORTER = timedelta(hours=1)
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/capacity-blocks-how.html
CUTOFF = timedelta(minutes=30)

# The region has no such type, or sells no blocks: an answer, and not a failure.
NOT_SOLD = {"InvalidInstanceType", "Unsupported", "UnsupportedOperation"}

# Our own name for a reservation on demand, of which AWS has no list.
ON_DEMAND = "on-demand:"
# A reservation on demand begins when it is made: it is an offer for whoever needs it about now.
SOON = timedelta(minutes=30)

# All states of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CapacityReservation.html
STATES = {
    "active": "active",
    "assessing": "pending",
    "cancelled": "ended",
    "cancelling": "ended",  # the capacity is given back, only its charges go on
    "delayed": "scheduled",
    "expired": "ended",
    "failed": "failed",
    "payment-failed": "failed",
    "payment-pending": "pending",
    "pending": "pending",
    "scheduled": "scheduled",
    "unavailable": "active",  # ours and paid, and out of order
    "unsupported": "failed",
}
# Nothing is promised on what AWS calls by a name that is not in its description.
UNLISTED = "pending"


def offerings(session: AwsSession, request: CapacityRequest) -> list[CapacityOffering]:
    """Return what could be bought: blocks of at least the hours asked for, and reservations from now on."""
    classes = _found(
        usage
        for item in session.pages(
            request.region, TYPES, "InstanceTypes", InstanceTypes=[request.instance_type]
        )
        for usage in get(item, "SupportedUsageClasses", list, action=TYPES, default=[])
    )
    found: list[CapacityOffering] = []
    if CAPACITY_BLOCK in classes:
        found += _found(_blocks(session, request))
    if "on-demand" in classes:
        found += _on_demand(session, request)
    return sorted(found, key=lambda each: (each.total is None, each.total or 0, each.start, each.id))


def _found(items: Iterable[T]) -> list[T]:
    """Return all items, or none where AWS says that there is no such thing in the region."""
    try:
        return list(items)
    except ProviderError as error:
        if error.code in NOT_SOLD:
            return []
        raise


def _blocks(session: AwsSession, request: CapacityRequest) -> Iterator[CapacityOffering]:
    days = next((days for days in DAYS_OF_BLOCK if days * 24 >= request.hours), None)
    if days is None or request.count > MOST_IN_BLOCK or request.earliest >= request.latest:
        return
    items = session.pages(
        request.region,
        OFFERINGS,
        "CapacityBlockOfferings",
        InstanceType=request.instance_type,
        InstanceCount=request.count,
        StartDateRange=request.earliest,
        EndDateRange=request.latest,
        CapacityDurationHours=days * 24,
    )
    for item in items:
        # Several segments would become several reservations.
        if len(item.get("CapacityBlockOfferingSegments") or [item]) > 1 or item.get("UltraserverType"):
            continue
        start = get(item, "StartDate", datetime, action=OFFERINGS)
        end = get(item, "EndDate", datetime, action=OFFERINGS)
        if end - start < timedelta(hours=request.hours) - SHORTER:
            continue
        fee = get(item, "UpfrontFee", Decimal, action=OFFERINGS)
        yield CapacityOffering(
            id=get(item, "CapacityBlockOfferingId", str, action=OFFERINGS),
            instance_type=get(item, "InstanceType", str, action=OFFERINGS),
            region=request.region,
            zone=get(item, "AvailabilityZone", str, action=OFFERINGS),
            count=get(item, "InstanceCount", int, action=OFFERINGS),
            start=start.astimezone(UTC),
            end=end.astimezone(UTC),
            total=fee,
            upfront=fee,
            currency=get(item, "CurrencyCode", str, action=OFFERINGS, default="USD"),
        )


def _on_demand(session: AwsSession, request: CapacityRequest) -> Iterator[CapacityOffering]:
    """Yield one reservation for each zone that has the type; whether there is room is known when it is made."""
    now = datetime.now(UTC)
    end = max(now, request.earliest) + timedelta(hours=request.hours)
    if request.earliest > now + SOON or end > request.latest + SOON:
        return
    price = None
    if session.reads_prices:
        price = prices.listed(session, request.region, [request.instance_type]).get(request.instance_type)
        if price is None:
            return  # not sold on demand there, whatever its usage classes say
    # By the minute until its end, like the machines would.
    hours = Decimal(int((end - now).total_seconds())) / 3600
    for zone in sorted(
        catalog.zones_by_type(session, request.region, [request.instance_type])[request.instance_type]
    ):
        yield CapacityOffering(
            id=f"{ON_DEMAND}{zone}",
            instance_type=request.instance_type,
            region=request.region,
            zone=zone,
            count=request.count,
            start=now,
            end=end,
            total=price.amount * request.count * hours if price else None,
            upfront=Decimal(0),
            currency=price.currency if price else "USD",
        )


def buy(
    session: AwsSession, offering: CapacityOffering, client_token: str, tags: Mapping[str, str]
) -> Reservation:
    """Buy a block, or make a reservation on demand, in one call.

    PurchaseCapacityBlock has no idempotency token: the tag is what finds it after a doubt.
    """
    ec2 = session.ec2(offering.region, attempts=1)
    marked = {
        "TagSpecifications": [
            {"ResourceType": "capacity-reservation", "Tags": tag_list({**tags, TAG_TOKEN: client_token})}
        ],
        "InstancePlatform": LINUX,
    }
    if offering.id.startswith(ON_DEMAND):
        action = RESERVE
        with translated(action):
            answer = ec2.create_capacity_reservation(
                InstanceType=offering.instance_type,
                InstanceCount=offering.count,
                AvailabilityZone=offering.zone,
                EndDateType="limited",
                EndDate=offering.end,
                InstanceMatchCriteria="targeted",  # nothing runs on it by chance
                ClientToken=client_token,
                **marked,
            )
    else:
        action = BUY_BLOCK
        with translated(action):
            answer = ec2.purchase_capacity_block(CapacityBlockOfferingId=offering.id, **marked)
    item = answer.get("CapacityReservation")
    if not item:
        raise BadAnswer(_("%(action)s: the answer names no reservation.") % {"action": action})
    return _reservation(item, offering.region, action)


def reservations(session: AwsSession, region: str) -> Iterator[Reservation]:
    """Yield every reservation in a region, those that other accounts share with this one included."""
    for item in session.pages(region, RESERVATIONS, "CapacityReservations"):
        yield _reservation(item, region, RESERVATIONS)


def _reservation(item: dict[str, Any], region: str, action: str) -> Reservation:
    raw = get(item, "State", str, action=action)
    count = get(item, "TotalInstanceCount", int, action=action)
    free = get(item, "AvailableInstanceCount", int, action=action, default=None)
    block = item.get("ReservationType") == CAPACITY_BLOCK
    return Reservation(
        id=get(item, "CapacityReservationId", str, action=action),
        instance_type=get(item, "InstanceType", str, action=action),
        region=region,
        zone=get(item, "AvailabilityZone", str, action=action, default=""),
        count=count,
        state=STATES.get(raw, UNLISTED),
        raw_state=raw,
        start=utc(item.get("StartDate")),
        end=utc(item.get("EndDate")),
        cutoff=CUTOFF if block else timedelta(),
        used=None if free is None or raw != "active" else count - free,
        tags=tags_of(item),
    )
