"""Launching, reading and ending virtual machines.

A machine is one PUT by a name of ours, with its disk, network interface and address in
the same call, all of which go when it goes. Azure accepts the call and works on; how that
went is read from the machine later, by :func:`describe`.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from azure.core import MatchConditions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils.translation import gettext as _

from inventory.providers import naming as marks
from inventory.providers.azure import images, naming, network, reservations, states
from inventory.providers.azure.errors import translated
from inventory.providers.azure.session import (
    COMPUTE,
    NETWORK,
    AzureSession,
    ask,
    location,
    our_items,
)
from inventory.providers.base import LaunchedInstance, LaunchGroup, Machine, MachineState, PurchaseOption
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import BadAnswer, NotFound, NotSupported, ProviderError
from inventory.providers.fields import moment

log = logging.getLogger(__name__)

# The version of Microsoft.Network that makes interface and address; the compute API names two.
NETWORK_OF_MACHINES = "2020-11-01"
MACHINES = "Microsoft.Compute/virtualMachines"
INTERFACES, ADDRESSES = "Microsoft.Network/networkInterfaces", "Microsoft.Network/publicIPAddresses"
# Azure's metadata takes these two kinds of key; others go in by cloud-init:
# https://learn.microsoft.com/en-us/azure/virtual-machines/linux/mac-create-ssh-keys
KEYS = ("ssh-ed25519 ", "ssh-rsa ")
USER = "ubuntu"
DISK = "Premium_LRS"
Described = tuple[dict[str, Any], tuple[str, str]]  # a machine, and its public and private address
# Above this many, four listings take fewer calls than two reads per machine.
ONE_BY_ONE = 5


def launch(session: AzureSession, group: LaunchGroup) -> list[LaunchedInstance]:
    """Create one machine in one call that is never repeated here; it starts after this returns."""
    if group.count != 1:
        raise NotSupported(_("Azure launches one machine per call."))
    name, document = machine(session, group)

    def put() -> Any:
        # If-None-Match: a name that is taken is refused instead of changing what runs under it.
        return session.compute.virtual_machines.begin_create_or_update(  # type: ignore[call-overload]
            session.resource_group,
            name,
            document,  # JSON, which the SDK takes and its overloads do not mention
            match_condition=MatchConditions.IfMissing,
            polling=False,
        ).result()

    action = _("Launching a machine")
    answer = ask(put, action=action)
    if str(answer.get("name") or "").lower() != name.lower():
        raise BadAnswer(_("%(action)s: the answer is about another machine.") % {"action": action})
    _state, raw, _reason = states.state_of(answer.get("properties") or {})
    return [LaunchedInstance(id=name, zone=_zone(answer), raw_state=raw)]


def machine(session: AzureSession, group: LaunchGroup) -> tuple[str, dict[str, Any]]:
    """Return the name and the document of a new machine; asks Azure only about a reservation.

    A zone that is the region itself means none: Azure places the machine where it can.
    """
    tags = naming.machine_tags(group)
    name = naming.machine_name(tags)
    image, plan = images.reference(group.image or images.default(session, group.region))
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": group.instance_type},
        "storageProfile": {"imageReference": image, "osDisk": _disk(session, name)},
        "osProfile": _login(session, group, name),
        "networkProfile": {
            "networkApiVersion": NETWORK_OF_MACHINES,
            "networkInterfaceConfigurations": [_interface(session, group, name, tags)],
        },
    }
    if kind := session.text("security_type"):
        properties["securityProfile"] = {"securityType": kind}
    if group.reservation_id:
        properties["capacityReservation"] = {
            "capacityReservationGroup": {"id": reservations.check_room(session, group)}
        }
    elif group.purchase_option == PurchaseOption.SPOT:
        properties |= {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    document: dict[str, Any] = {"location": group.region, "tags": tags, "properties": properties}
    if group.zone and group.zone != group.region:
        document["zones"] = [group.zone]
    if plan:
        document["plan"] = plan
    return name, document


def _disk(session: AzureSession, name: str) -> dict[str, Any]:
    disk: dict[str, Any] = {
        "name": name,
        "createOption": "FromImage",
        "caching": "ReadWrite",
        "deleteOption": "Delete",
        "managedDisk": {"storageAccountType": session.text("disk_sku") or DISK},
    }
    if size := session.number("disk_gib"):
        disk["diskSizeGB"] = size
    return disk


def _login(session: AzureSession, group: LaunchGroup, name: str) -> dict[str, Any]:
    user = group.login_user or session.text("user") or USER
    keys = [key.strip() for key in group.ssh_public_keys]
    taken = [key for key in keys if key.startswith(KEYS)] or [_nobodys_key()]
    profile: dict[str, Any] = {
        "computerName": name,
        "adminUsername": user,
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "provisionVMAgent": True,
            "ssh": {
                "publicKeys": [
                    {"path": f"/home/{user}/.ssh/authorized_keys", "keyData": key} for key in taken
                ]
            },
        },
    }
    if data := user_data([key for key in keys if not key.startswith(KEYS)], group.user_data):
        profile["customData"] = base64.b64encode(data.encode()).decode()
    return profile


def _nobodys_key() -> str:
    """Return a key that nobody holds: Azure wants one, also where the customer's go in by cloud-init."""
    public = Ed25519PrivateKey.generate().public_key()
    text = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return text.decode() + " nobody"


def _interface(
    session: AzureSession, group: LaunchGroup, name: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    if not group.firewall_id:
        raise ProviderError(_("The lease has no network yet: prepare it before the launch."))
    address: dict[str, Any] = {
        "primary": True,
        "subnet": {"id": network.subnet_id(session, group.region, group.firewall_id)},
        "applicationSecurityGroups": [{"id": session.resource(network.MEMBERS, group.firewall_id)}],
    }
    if session.flag("public_ip", default=True):
        address["publicIPAddressConfiguration"] = {
            "name": name,
            "sku": {"name": "Standard", "tier": "Regional"},
            "tags": dict(tags),
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }
    return {
        "name": name,
        "tags": dict(tags),
        "properties": {
            "primary": True,
            "deleteOption": "Delete",
            "networkSecurityGroup": {"id": session.resource(network.FIREWALL, group.firewall_id)},
            "ipConfigurations": [{"name": "primary", "properties": address}],
        },
    }


def find(session: AzureSession, region: str, tag: str, value: str) -> list[Machine]:
    found = [
        naming.id_of(document)
        for document in our_items(_all(session), region)
        if marks.matches(naming.tags_of(document), tag, value)
    ]
    return describe(session, region, found)


def describe(session: AzureSession, region: str, ids: Sequence[str]) -> list[Machine]:
    """Return the machines with these names; their addresses are read from their interfaces.

    One that never got a host is told once, and its remains are removed: they would hold a
    place in their reservation, and one more would be left by every further try.
    """
    few = len(ids) <= ONE_BY_ONE
    documents = _one_by_one(session, region, ids) if few else _together(session, region, ids)
    machines = []
    for document, addresses in documents:
        found = _machine(region, document, addresses)
        machines.append(found)
        if found.state == MachineState.TERMINATED and states.never_ran(document["properties"]):
            try:
                delete(session, found.id)
            except ProviderError as error:
                log.warning("failed_machine_stays", extra={"machine": found.id, "error": str(error)})
    return machines


def _one_by_one(session: AzureSession, region: str, ids: Sequence[str]) -> Iterator[Described]:
    for name in ids:
        try:
            document = ask(
                lambda name=name: session.compute.virtual_machines.get(  # type: ignore[misc]
                    session.resource_group, name, expand="instanceView"
                ),
                action=_("Reading a machine"),
            )
        except NotFound:
            continue
        if location(document) == region:
            yield document, _own_addresses(session, document)


def reclaim(session: AzureSession, ids: Sequence[str]) -> None:
    """Delete machines, and with them their disk, interface and address; gone already is no error."""
    for name in ids:
        try:
            delete(session, name)
        except NotFound:
            continue


def delete(session: AzureSession, name: str) -> None:
    """Ask for a machine's end; it goes on after this returns."""
    with translated(_("Ending a machine")):
        session.compute.virtual_machines.begin_delete(session.resource_group, name, polling=False)


def _all(session: AzureSession) -> Iterator[Any]:
    path = session.group_path(f"/providers/{MACHINES}")
    return session.list(path, COMPUTE, action=_("Listing machines"))


def _together(session: AzureSession, region: str, ids: Sequence[str]) -> Iterator[Described]:
    names = {name.lower() for name in ids}
    documents = [
        document
        for document in our_items(_all(session), region)
        if str(document.get("name")).lower() in names
    ]
    action = _("Listing machines’ states")
    # The listing of a group cannot show states; this one, of the subscription, shows nothing else.
    listing = session.list(
        session.subscription_path(f"/providers/{MACHINES}"), COMPUTE, action=action, statusOnly="true"
    )
    views = {
        str(item.get("id")).lower(): (item.get("properties") or {}).get("instanceView")
        for item in listing
        if isinstance(item, Mapping)
    }
    action = _("Listing addresses")
    interfaces = {
        str(item.get("id")).lower(): item
        for item in session.list(session.group_path(f"/providers/{INTERFACES}"), NETWORK, action=action)
        if isinstance(item, Mapping)
    }
    public = {
        str(item.get("id")).lower(): str((item.get("properties") or {}).get("ipAddress") or "")
        for item in session.list(session.group_path(f"/providers/{ADDRESSES}"), NETWORK, action=action)
        if isinstance(item, Mapping)
    }
    for document in documents:
        view = views.get(str(document.get("id")).lower())
        properties = {**(document.get("properties") or {}), "instanceView": view}
        found = [interfaces.get(path.lower(), {}) for path in _interface_ids(document)]
        yield {**document, "properties": properties}, _addresses(found, public)


def _own_addresses(session: AzureSession, document: Mapping[str, Any]) -> tuple[str, str]:
    found = []
    for path in _interface_ids(document):
        try:
            found.append(
                session.get(
                    path,
                    NETWORK,
                    action=_("Reading an address"),
                    **{"$expand": "ipConfigurations/publicIPAddress"},
                )
            )
        except NotFound:
            continue
    return _addresses(found, {})


def _interface_ids(document: Mapping[str, Any]) -> list[str]:
    profile = (document.get("properties") or {}).get("networkProfile") or {}
    return [
        str(item["id"])
        for item in profile.get("networkInterfaces") or []
        if isinstance(item, Mapping) and str(item.get("id") or "").startswith("/subscriptions/")
    ]


def _addresses(interfaces: Iterable[Any], public: Mapping[str, str]) -> tuple[str, str]:
    """Return the first public and the first private address of interfaces."""
    outside = inside = ""
    for item in interfaces:
        properties = item.get("properties") if isinstance(item, Mapping) else None
        for each in (properties or {}).get("ipConfigurations") or []:
            settings = each.get("properties") or {}
            inside = inside or str(settings.get("privateIPAddress") or "")
            address = settings.get("publicIPAddress") or {}
            known = public.get(str(address.get("id") or "").lower(), "")
            outside = outside or known or str((address.get("properties") or {}).get("ipAddress") or "")
    return outside, inside


def _machine(region: str, document: Mapping[str, Any], addresses: tuple[str, str]) -> Machine:
    properties = document.get("properties") or {}
    state, raw, reason = states.state_of(properties)
    return Machine(
        id=naming.id_of(document),
        region=region,
        state=state,
        raw_state=raw,
        zone=_zone(document) or region,
        instance_type=str((properties.get("hardwareProfile") or {}).get("vmSize") or ""),
        public_ip=addresses[0],
        private_ip=addresses[1],
        tags=naming.tags_of(document),
        launched_at=moment(properties.get("timeCreated")),
        status_ok=states.healthy(properties),
        reason=reason,
    )


def _zone(document: Mapping[str, Any]) -> str:
    zones = document.get("zones")
    return str(zones[0]) if isinstance(zones, list) and zones else ""
