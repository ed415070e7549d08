"""Reserved capacity: reservations that are used by name, and future ones in calendar mode.

Google delivers a future reservation as a reservation, which it makes at the approval and
which has the name that launches use. In calendar mode it is for 1 to 90 days, and its
machines end with it: https://cloud.google.com/compute/docs/instances/future-reservations-calendar-mode-overview.
Google states no price beside its advice, but publishes one on a page; where the account's
settings have it, what is advised can be bought, and else staff see where and when.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    CapacityOffering,
    CapacityRequest,
    Reservation,
)
from inventory.providers.errors import BadAnswer, NotFound, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.gcp import marks, operations
from inventory.providers.gcp.errors import before_the_call
from inventory.providers.gcp.session import NAME, PROJECT, ZONE, GcpSession, last

# Every value of FutureReservationStatus.procurementStatus.
STATES: Mapping[str, str] = {
    "APPROVED": "scheduled",
    "CANCELLED": "ended",
    "COMMITTED": "scheduled",
    "DECLINED": "failed",
    "DRAFTING": "pending",
    "FAILED": "failed",
    "FAILED_PARTIALLY_FULFILLED": "active",  # with fewer machines than were asked for
    "FULFILLED": "active",
    "PENDING_AMENDMENT_APPROVAL": "scheduled",  # what was approved holds until then
    "PENDING_APPROVAL": "pending",
    "PROCUREMENT_STATUS_UNSPECIFIED": "pending",
    "PROCURING": "scheduled",
    "PROVISIONING": "scheduled",
}
DELIVERED = {"FULFILLED", "FAILED_PARTIALLY_FULFILLED"}
# Every value of Reservation.status.
RESERVATION_STATES: Mapping[str, str] = {
    "CREATING": "pending",
    "DELETING": "ended",
    "INVALID": "failed",
    "READY": "active",
    "UPDATING": "active",
}
# Nothing is promised on what Google calls by a name that is not in its description.
UNLISTED = "pending"
ADVICE, LISTING, BUYING = "calendarMode", "futureReservations", "futureReservations.insert"
LONGEST_DAYS = 90
WANTED = "wanted"  # our own key of the one specification in a question
_RESERVATION = re.compile(
    rf"(?:projects/(?P<project>{PROJECT.pattern})/reservations/)?(?P<name>{NAME.pattern})"
)
_MARKS = (TAG_SITE, TAG_LEASE, TAG_ALLOCATION, TAG_TOKEN)


def checked(reservation_id: str) -> str:
    """Return a reservation's name, or ``projects/P/reservations/NAME`` of one that another project shares."""
    if not _RESERVATION.fullmatch(reservation_id):
        raise ProviderError(
            _("“%(id)s” names no reservation: write NAME, or projects/PROJECT/reservations/NAME.")
            % {"id": reservation_id[:120]}
        )
    return reservation_id


def ends_its_machines(session: GcpSession, reservation_id: str, zone: str) -> bool:
    """Tell whether launches into a reservation must be bound to it.

    Dense ones and those of calendar mode take no others. A reservation itself does not say
    its mode; the future reservation that it was delivered from does. The setting
    ``reservation_bound`` decides where it is set, as it must be for a reservation that
    another project shares.
    """
    configured = session.flag("reservation_bound")
    match = _RESERVATION.fullmatch(checked(reservation_id))
    if configured is not None or match is None or match["project"]:
        return bool(configured)
    action, name = _("Reading a reservation"), match["name"]
    try:
        found = session.get(f"zones/{zone}/reservations/{name}", action=action)
    except NotFound as error:
        raise ProviderError(
            _("%(zone)s has no reservation %(id)s: check the commitment.") % {"zone": zone, "id": name}
        ) from error
    if get(found, "deploymentType", str, action=action, default="") == "DENSE":
        return True
    if not get(found, "deleteAtTime", str, action=action, default=""):
        return False
    return any(
        get(item, "reservationMode", str, action=action, default="") == "CALENDAR"
        for item in session.listing(f"zones/{zone}/futureReservations", action=action)
        if name in _delivered_as(item, action)
    )


def _delivered_as(item: Any, action: str) -> list[str]:
    """Return the names of the reservations that a future one is, or will be, delivered as."""
    made = get(item, "status.autoCreatedReservations", list, action=action, default=[])
    name = get(item, "reservationName", str, action=action, default="")
    return [each for each in (*(last(url) for url in made), name) if each]


def offerings(session: GcpSession, request: CapacityRequest) -> list[CapacityOffering]:
    """Return where and when Google advises to reserve in calendar mode."""
    days = max(1, math.ceil(request.hours / 24))
    # The last moment at which it can begin and still end in time.
    latest = request.latest.timestamp() - days * 86_400
    if days > LONGEST_DAYS or latest < request.earliest.timestamp():
        return []
    length = f"{days * 86_400}s"
    specification = {
        "targetResources": {
            "specificSkuResources": {
                "machineType": request.instance_type,
                "instanceCount": str(request.count),
            }
        },
        "timeRangeSpec": {
            "minDuration": length,
            "maxDuration": length,
            "startTimeNotEarlierThan": _written(request.earliest),
            "startTimeNotLaterThan": _written(datetime.fromtimestamp(latest, UTC)),
        },
    }
    action = _("Calendar mode advice")
    try:
        answer = session.ask(
            f"regions/{request.region}/advice/calendarMode",
            {"futureResourcesSpecs": {WANTED: specification}},
            action=action,
        )
    except ProviderError as error:
        if error.code in ("invalid", "badRequest", "INVALID_ARGUMENT"):
            return []  # Google reserves no such machines ahead, or not for such a time
        raise
    rate = _rate(session, request)
    found = []
    for each in get(answer, "recommendations", list, action=action, default=[]):
        advice = get(each, f"recommendationsPerSpec.{WANTED}", dict, action=action, default={})
        zone = last(advice.get("location"))
        start, end = moment(advice.get("startTime")), moment(advice.get("endTime"))
        identifier = get(advice, "recommendationId", str, action=action, default="")
        if not (ZONE.fullmatch(zone) and start and end and identifier):
            continue  # none was recommended, and “otherLocations” say why
        found.append(
            CapacityOffering(
                id=identifier[:200],
                instance_type=request.instance_type,
                region=request.region,
                zone=zone,
                count=request.count,
                start=start,
                end=end,
                total=None if rate is None else rate * request.count * _hours(start, end),
                upfront=Decimal(0),  # billed by the month, used or not
                currency=session.currency(),
            )
        )
    return sorted(found, key=lambda each: (each.start, each.zone))


def _rate(session: GcpSession, request: CapacityRequest) -> Decimal | None:
    """Return what staff say that one machine costs per hour in calendar mode, or None."""
    rates = session.settings.get("calendar_prices") or {}
    rate = rates.get(request.instance_type) if isinstance(rates, Mapping) else "?"
    if isinstance(rate, Mapping):
        rate = rate.get(request.region)
    if rate is None:
        return None
    try:
        found = Decimal(str(rate))
    except InvalidOperation:
        found = Decimal("NaN")
    if isinstance(rate, bool) or not found.is_finite() or not 0 < found < 10**6:
        raise ProviderError(
            _(
                "The account setting “calendar_prices” must be an object with a price per hour for each "
                "machine type, or for each of its regions."
            )
        )
    return found


def _hours(start: datetime, end: datetime) -> Decimal:
    return Decimal(int((end - start).total_seconds())) / 3600


def buy(
    session: GcpSession, offering: CapacityOffering, client_token: str, tags: Mapping[str, str]
) -> Reservation:
    """Ask for a future reservation in calendar mode, in one call; Google approves it within minutes.

    It has no labels: its name and its description carry our tags. The reservation that
    launches will use has the same name.
    """
    action = _("Reserving capacity")
    with before_the_call():
        marked = marks.with_token(tags, client_token)
        name = marks.machine_name(marked)
        if not ZONE.fullmatch(offering.zone):
            raise ProviderError(_("“%(zone)s” is no zone.") % {"zone": offering.zone[:60]})
    operation = session.write(
        "POST",
        f"zones/{offering.zone}/futureReservations",
        {
            "name": name,
            "description": _described(marked),
            "reservationName": name,
            "reservationMode": "CALENDAR",
            "planningStatus": "SUBMITTED",
            "specificReservationRequired": True,
            "autoDeleteAutoCreatedReservations": True,
            "specificSkuProperties": {
                "totalCount": str(offering.count),
                "instanceProperties": {"machineType": offering.instance_type},
            },
            "timeWindow": {"startTime": _written(offering.start), "endTime": _written(offering.end)},
        },
        action=action,
        request_id=marks.request_id(client_token, "reserve"),
    )
    operations.watch(session, f"zones/{offering.zone}", operation, action=action)
    return Reservation(
        id=name,
        instance_type=offering.instance_type,
        region=offering.region,
        zone=offering.zone,
        count=offering.count,
        state="pending",
        start=offering.start,
        end=offering.end,
        tags=marked,
    )


def reservations(session: GcpSession, region: str) -> Iterator[Reservation]:
    """Yield every reservation of a region, by the name that launches use.

    A future one and the reservation that it was delivered as are one. Those of TPUs and of
    storage are left out.
    """
    action = _("Listing reservations")
    held: dict[tuple[str, str], Mapping[str, Any]] = {
        (zone, get(item, "name", str, action=action)): item
        for zone, item in session.aggregated("reservations", region=region, action=action)
        if item.get("specificReservation")
    }
    action = _("Listing future reservations")
    for zone, item in session.aggregated("futureReservations", region=region, action=action):
        if not item.get("specificSkuProperties"):
            continue
        name = get(item, "reservationName", str, action=action, default="")
        raw = get(item, "status.procurementStatus", str, action=action, default="")
        delivered = [(zone, each) for each in _delivered_as(item, action) if (zone, each) in held]
        if raw in DELIVERED and delivered:
            for key in dict.fromkeys(delivered):
                yield _held(region, key, held.pop(key), _tags(item), _window(item, action))
        else:
            for key in delivered:  # made at the approval, and empty until it begins
                held.pop(key, None)
            yield _future(region, zone, item, action, name)
    for key, item in held.items():
        yield _held(region, key, item, {}, (None, None))
    yield from _shared(session, region)


def _shared(session: GcpSession, region: str) -> Iterator[Reservation]:
    """Yield the reservations of the projects that the settings name, by the paths that launches use."""
    action = _("Listing reservations")
    for project in session.reservation_projects():
        for zone, item in session.aggregated("reservations", region=region, action=action, project=project):
            if item.get("specificReservation"):
                name = get(item, "name", str, action=action)
                found = _held(region, (zone, name), item, {}, (None, None))
                yield replace(found, id=f"projects/{project}/reservations/{name}")


def _future(region: str, zone: str, item: Mapping[str, Any], action: str, reservation: str) -> Reservation:
    raw = get(item, "status.procurementStatus", str, action=action, default="")
    counted = "specificSkuProperties.totalCount"
    if raw == "FAILED_PARTIALLY_FULFILLED":
        counted = "status.fulfilledCount"
    start, end = _window(item, action)
    return Reservation(
        id=reservation or get(item, "name", str, action=action),
        instance_type=last(
            get(item, "specificSkuProperties.instanceProperties.machineType", str, action=action, default="")
        ),
        region=region,
        zone=zone,
        count=_whole(item, counted, action),
        state=STATES.get(raw, UNLISTED),
        raw_state=raw,
        start=start,
        end=end,
        tags=_tags(item),
    )


def _held(
    region: str,
    key: tuple[str, str],
    item: Mapping[str, Any],
    tags: Mapping[str, str],
    window: tuple[datetime | None, datetime | None],
) -> Reservation:
    action = _("Listing reservations")
    raw = get(item, "status", str, action=action, default="")
    return Reservation(
        id=key[1],
        instance_type=last(
            get(item, "specificReservation.instanceProperties.machineType", str, action=action, default="")
        ),
        region=region,
        zone=key[0],
        count=_whole(item, "specificReservation.count", action),
        state=RESERVATION_STATES.get(raw, UNLISTED),
        raw_state=raw,
        start=window[0] or moment(item.get("creationTimestamp")),
        end=window[1] or moment(item.get("deleteAtTime")),
        used=_whole(item, "specificReservation.inUseCount", action, default="0"),
        tags=tags or naming.tags_of(key[1]),
    )


def _window(item: Mapping[str, Any], action: str) -> tuple[datetime | None, datetime | None]:
    window = get(item, "timeWindow", dict, action=action, default={})
    return moment(window.get("startTime")), moment(window.get("endTime"))


def _whole(item: Mapping[str, Any], path: str, action: str, default: str = "") -> int:
    """Return a number that Google writes as text (int64)."""
    text = get(item, path, str, action=action, default=default or None)
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadAnswer(_("%(action)s: “%(field)s” is no number.") % {"action": action, "field": path})
    return int(text)


def _described(tags: Mapping[str, str]) -> str:
    return " ".join(f"{tag}={tags[tag]}" for tag in _MARKS if tags.get(tag))


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    """Return what the description says in full, and the name at least in part."""
    found = naming.tags_of(str(item.get("name") or ""))
    for word in str(item.get("description") or "").split():
        tag, _equals, value = word.partition("=")
        if tag in _MARKS and naming.same(found.get(tag, ""), value):
            found[tag] = value
    return found


def _written(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
