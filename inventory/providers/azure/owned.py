"""Everything of ours in the resource group, and removing what nobody owns.

One listing of ARM has every kind of resource with its tags. It may lag behind by minutes,
which orphans are given anyway; launches are looked for in the compute provider's own list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.azure import machines, network
from inventory.providers.azure.errors import translated
from inventory.providers.azure.naming import id_of, tags_of
from inventory.providers.azure.session import GROUPS, NETWORK, AzureSession, our_items
from inventory.providers.base import OwnedResource, ResourceKind
from inventory.providers.errors import NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment

KINDS: Mapping[str, ResourceKind] = {
    "microsoft.compute/virtualmachines": ResourceKind.INSTANCE,
    "microsoft.compute/disks": ResourceKind.VOLUME,
    "microsoft.network/networkinterfaces": ResourceKind.ADDRESS,
    "microsoft.network/publicipaddresses": ResourceKind.ADDRESS,
    "microsoft.network/applicationsecuritygroups": ResourceKind.NETWORK,
    "microsoft.network/networksecuritygroups": ResourceKind.NETWORK,
    "microsoft.network/virtualnetworks": ResourceKind.NETWORK,
}
ADDRESSES = {path.lower(): path.partition("/")[2] for path in (machines.INTERFACES, machines.ADDRESSES)}
_ADDRESS = re.compile(rf"(?:{'|'.join(ADDRESSES.values())})/[\w.-]+")
_NAME = re.compile(r"[\w.-]+")


def list_owned(session: AzureSession, region: str) -> Iterator[OwnedResource]:
    """Yield machines, disks, interfaces, addresses and networks that carry our marks.

    The three parts of a lease's network are one resource, named as its firewall is.
    """
    action = _("Listing resources")
    networks: set[str] = set()
    listing = session.list(
        session.group_path("/resources"),
        GROUPS,
        action=action,
        **{"$expand": "createdTime,provisioningState"},
    )
    for item in our_items(listing, region):
        kind = KINDS.get(get(item, "type", str, action=action).lower())
        tags = tags_of(item)
        if kind is None or not tags:
            continue
        name = id_of(item)
        if kind == ResourceKind.NETWORK:
            if name in networks:
                continue
            networks.add(name)
        yield OwnedResource(
            kind=kind,
            id=_id(kind, name, item),
            region=region,
            tags=tags,
            created_at=moment(item.get("createdTime")),
            state=str(item.get("provisioningState") or ""),
        )


def _id(kind: ResourceKind, name: str, item: Mapping[str, Any]) -> str:
    if kind != ResourceKind.ADDRESS:
        return name
    return f"{ADDRESSES[str(item['type']).lower()]}/{name}"


def remove(session: AzureSession, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    try:
        match resource.kind:
            case ResourceKind.INSTANCE:
                machines.delete(session, _checked(_NAME, resource.id))
            case ResourceKind.VOLUME:
                name = _checked(_NAME, resource.id)
                with translated(_("Removing a disk")):
                    session.compute.disks.begin_delete(session.resource_group, name, polling=False)
            case ResourceKind.ADDRESS:
                kind, _slash, name = _checked(_ADDRESS, resource.id).partition("/")
                path = session.resource(f"Microsoft.Network/{kind}", name)
                session.delete(path, NETWORK, action=_("Removing an address"))
            case ResourceKind.NETWORK:
                network.remove(session, _checked(_NAME, resource.id))
            case ResourceKind.KEY:
                raise NotSupported(_("Azure keeps no SSH keys for us."))
    except NotFound:
        pass


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ProviderError(_("“%(id)s” is no id of ours.") % {"id": text})
    return text
