"""Everything of ours in a region, and removing what nobody owns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import OwnedResource, ResourceKind
from inventory.providers.errors import NotSupported
from inventory.providers.fields import get, moment
from inventory.providers.gcp import machines, marks, network
from inventory.providers.gcp.session import GcpSession

KINDS = {
    "instances": ResourceKind.INSTANCE,
    "disks": ResourceKind.VOLUME,
    "addresses": ResourceKind.ADDRESS,
}
FIREWALLS = "sublet-[a-z0-9]{7}-[lm][a-z0-9]{16}(-[0-9]{1,5})?"


def list_owned(session: GcpSession, region: str) -> Iterator[OwnedResource]:
    """Yield machines, disks and static addresses with our labels, and firewalls with our names.

    Those of one lease are one resource. Firewall rules belong to no region, so that each
    says in its description for which one it was made.
    """
    for kind, ours in KINDS.items():
        action = _("Listing %(kind)s") % {"kind": kind}
        for place, item in session.aggregated(kind, region=region, action=action, filter=marks.ANY_OF_OURS):
            tags = marks.tags_of(item)
            if tags:
                yield OwnedResource(
                    kind=ours,
                    id=marks.id_of(place, get(item, "name", str, action=action)),
                    region=region,
                    tags=tags,
                    created_at=moment(item.get("creationTimestamp")),
                    state=get(item, "status", str, action=action, default=""),
                )
    firewalls: dict[str, datetime | None] = {}
    for rule in network.listed(session, FIREWALLS):
        if network.region_of(rule) != region:
            continue
        name = network.base_name(str(rule["name"]))
        firewalls.setdefault(name, moment(rule.get("creationTimestamp")))
    for name, created in firewalls.items():
        yield OwnedResource(
            kind=ResourceKind.NETWORK, id=name, region=region, tags=naming.tags_of(name), created_at=created
        )


def remove(session: GcpSession, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            machines.delete(session, resource.id)
        case ResourceKind.VOLUME:
            zone, name = marks.split(resource.id)
            machines.gone(session, "DELETE", f"zones/{zone}/disks/{name}", action=_("Removing a disk"))
        case ResourceKind.ADDRESS:
            region, name = marks.split(resource.id)
            path = f"regions/{region}/addresses/{name}"
            machines.gone(session, "DELETE", path, action=_("Removing an address"))
        case ResourceKind.NETWORK:
            network.remove(session, resource.region, resource.id)
        case ResourceKind.KEY:
            raise NotSupported(_("Google Cloud keeps no SSH keys for us."))
