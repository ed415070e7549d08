"""A lease's own network: a security group, an application security group, a virtual network.

Inbound: the customer's addresses to tcp/22, and the lease's machines to each other, who
are known by the application security group. Azure's own rules would let in whatever is in
the same virtual network, so everything else is denied first. InfiniBand is no part of it:
its traffic passes no security group. All three have one name, and that is the firewall's id.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.azure.naming import network_name, network_tags
from inventory.providers.azure.session import NETWORK, AzureSession
from inventory.providers.base import LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import NotFound, ProviderError
from inventory.providers.fields import get

MEMBERS = "Microsoft.Network/applicationSecurityGroups"
FIREWALL = "Microsoft.Network/networkSecurityGroups"
VNET = "Microsoft.Network/virtualNetworks"
ADDRESS_SPACE = "10.0.0.0/16"
SUBNET = "machines"
SSH = "22"
# https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/azure-subscription-service-limits
MOST_PREFIXES = 4000

# A network takes a few seconds. The next sweep goes on where this one stops waiting.
SETTLE_TRIES, SETTLE_PAUSE = 12, 0.5  # seconds
READY, BROKEN = "Succeeded", "Failed"


def prepare(session: AzureSession, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's network; safe to call again at any time."""
    tags = network_tags(request)
    name = network_name(tags)
    common = {"location": request.region, "tags": tags}
    members = session.resource(MEMBERS, name)
    _put(session, members, {**common, "properties": {}})
    _put(
        session,
        session.resource(FIREWALL, name),
        {**common, "properties": {"securityRules": rules(members, request.ssh_cidrs)}},
    )
    if not session.by_region("subnet", request.region):
        subnet = {"name": SUBNET, "properties": {"addressPrefix": ADDRESS_SPACE}}
        space = {"addressPrefixes": [ADDRESS_SPACE]}
        _put(
            session,
            session.resource(VNET, name),
            {**common, "properties": {"addressSpace": space, "subnets": [subnet]}},
        )
    return LeaseNetwork(region=request.region, firewall_id=name, key_name="")


def subnet_id(session: AzureSession, region: str, firewall_id: str) -> str:
    """Return the subnet of a lease's machines: the account's for the region, or the lease's own."""
    configured = session.by_region("subnet", region)
    if configured and not configured.lower().startswith("/subscriptions/"):
        raise ProviderError(_("The account setting “subnet” must be the resource id of a subnet."))
    return configured or f"{session.resource(VNET, firewall_id)}/subnets/{SUBNET}"


def remove(session: AzureSession, name: str) -> None:
    """Remove a lease's network. One that is still in use raises a retryable error.

    The virtual network goes first, since its machines keep it; the members last, since the
    rules name them.
    """
    for kind in (VNET, FIREWALL, MEMBERS):
        try:
            session.delete(session.resource(kind, name), NETWORK, action=_("Removing a network"))
        except NotFound:
            continue


def rules(members: str, cidrs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the security rules, in the order in which Azure applies them."""
    networks = sorted({ipaddress.ip_network(cidr, strict=False) for cidr in cidrs}, key=str)
    if len(networks) > MOST_PREFIXES:
        raise ProviderError(_("Azure takes at most %(n)s addresses in one rule.") % {"n": MOST_PREFIXES})
    found = []
    for version, priority in ((4, 100), (6, 110)):
        # One rule cannot mix both kinds of address.
        sources = [str(network) for network in networks if network.version == version]
        if sources:
            found.append(
                _rule(
                    f"ssh-ipv{version}",
                    priority,
                    protocol="Tcp",
                    sourceAddressPrefixes=sources,
                    destinationAddressPrefix="*",
                    destinationPortRange=SSH,
                )
            )
    found.append(
        _rule(
            "own-machines",
            200,
            sourceApplicationSecurityGroups=[{"id": members}],
            destinationApplicationSecurityGroups=[{"id": members}],
        )
    )
    found.append(
        _rule("nobody-else", 4096, access="Deny", sourceAddressPrefix="*", destinationAddressPrefix="*")
    )
    return found


def _rule(name: str, priority: int, **properties: Any) -> dict[str, Any]:
    usual = {
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "*",
        "priority": priority,
        "sourcePortRange": "*",
        "destinationPortRange": "*",
    }
    return {"name": name, "properties": {**usual, **properties}}


def _put(session: AzureSession, path: str, document: Mapping[str, Any]) -> None:
    """Make or correct one resource, and wait a few seconds until it can be used."""
    action = _("Preparing a network")
    found = session.put(path, NETWORK, document, action=action)
    for _turn in range(SETTLE_TRIES):
        state = get(found, "properties.provisioningState", str, action=action)
        if state == READY:
            return
        if state == BROKEN:
            break
        time.sleep(SETTLE_PAUSE)
        found = session.get(path, NETWORK, action=action)
    raise ProviderError(_("%(action)s: it is not ready yet.") % {"action": action}, retryable=True)
