"""Capacity reservation groups, as far as a launch must know them.

A machine that names a group takes its reserved capacity, but where that is used up Azure
places it on public capacity, and bills it on top: only *block* reservations never do
(https://learn.microsoft.com/en-us/azure/virtual-machines/capacity-reservation-overallocate).
So before a launch the group is read, and a full one is :class:`NoCapacity`.
"""

from __future__ import annotations

import re

from django.utils.translation import gettext as _

from inventory.providers.azure.session import COMPUTE, GROUP_NAME, AzureSession, name_of
from inventory.providers.base import LaunchGroup
from inventory.providers.errors import NoCapacity, ProviderError
from inventory.providers.fields import get

KIND = "Microsoft.Compute/capacityReservationGroups"
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Compute/capacityReservationGroups/(?P<name>[^/]+)",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?:(?P<group>[^/]+)/)?(?P<name>[\w.-]{1,80})")


def group_id(session: AzureSession, reservation_id: str) -> str:
    """Return the resource id of a capacity reservation group that is given by ``NAME``, ``GROUP/NAME`` or id.

    The short forms exist because a commitment keeps 120 characters.
    """
    if _ID.fullmatch(reservation_id):
        return reservation_id
    match = _NAME.fullmatch(reservation_id)
    if match is None or not GROUP_NAME.fullmatch(match["group"] or session.resource_group):
        raise ProviderError(
            _("“%(id)s” names no capacity reservation group: write NAME, or RESOURCE-GROUP/NAME.")
            % {"id": reservation_id}
        )
    if match["group"]:
        return session.subscription_path(f"/resourceGroups/{match['group']}/providers/{KIND}/{match['name']}")
    return session.resource(KIND, match["name"])


def check_room(session: AzureSession, group: LaunchGroup) -> str:
    """Return the id of the reservation group that the launch names, where it has room for one more.

    Raises :class:`NoCapacity` where it is full, and :class:`ProviderError` where it reserves
    nothing of this size in this zone.
    """
    path = group_id(session, group.reservation_id or "")
    action = _("Capacity reservations")
    reserved = used = 0
    for item in session.list(f"{path}/capacityReservations", COMPUTE, action=action):
        if get(item, "sku.name", str, action=action, default="").lower() != group.instance_type.lower():
            continue
        zones = get(item, "zones", list, action=action, default=[])
        if [str(zone) for zone in zones] not in ([], [group.zone]):
            continue
        reserved += get(item, "sku.capacity", int, action=action)
        used += len(get(item, "properties.virtualMachinesAssociated", list, action=action, default=[]))
    if not reserved:
        raise ProviderError(
            _("%(group)s reserves no %(type)s in zone %(zone)s: a launch would be paid twice.")
            % {"group": name_of(path), "type": group.instance_type, "zone": group.zone or "–"}
        )
    if used >= reserved:
        raise NoCapacity(
            _("%(group)s: all %(n)s reserved machines are in use.") % {"group": name_of(path), "n": reserved}
        )
    return path
