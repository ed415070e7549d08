"""A lease's own firewall: rules of the VPC network that apply to the machines with its network tag.

Inbound, the customer's addresses reach tcp/22 and the lease's machines reach each other;
a third rule denies all else, so that rules of the network that let everybody in
(``default-allow-ssh``) do not count. Lower numbers win:
https://cloud.google.com/firewall/docs/firewalls#priority_order_for_firewall_rules.
Machines have no IPv6 address, so neither have the rules. The rules' common name is the
firewall's id and the tag of its machines.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import ProviderError
from inventory.providers.fields import get
from inventory.providers.gcp import machines, marks, operations
from inventory.providers.gcp.errors import TAKEN
from inventory.providers.gcp.session import NAME, GcpSession, document, last

SSH, OWN, NOBODY_ELSE = 0, 1, 2
FIRST = 100  # of 0 to 65535
MOST_RANGES = 5_000  # of one rule: https://cloud.google.com/firewall/quotas
# A rule has no region of its own, so that it says whose it is.
DESCRIPTION = "A lease of Sublet in "
COMPARED = (
    "allowed",
    "denied",
    "description",
    "direction",
    "disabled",
    "priority",
    "sourceRanges",
    "sourceTags",
    "targetTags",
)


def prepare(session: GcpSession, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's rules; safe to call again at any time."""
    name = marks.lease_name({**request.tags, TAG_LEASE: request.lease}, request.region)
    project, network = session.network()
    path = f"projects/{project}/global/networks/{network}"
    wanted = rules(name, path, request.region, request.ssh_cidrs)
    action = _("Preparing a firewall")
    there = {rule["name"]: rule for rule in _listed(session, name)}
    begun = []
    # What denies comes first, so that nothing is open meanwhile.
    for rule in reversed(wanted):
        known = there.pop(rule["name"], None)
        if known is not None and last(known.get("network")) != network:
            raise ProviderError(
                _("The firewall rule %(name)s is in another network: remove it.") % {"name": rule["name"]}
            )
        if known is None:
            begun.append(_insert(session, project, rule, action))
        elif _differs(known, rule):
            path = f"global/firewalls/{rule['name']}"
            begun.append(session.write("PATCH", path, rule, action=action, project=project))
    for left in there:
        machines.gone(session, "DELETE", f"global/firewalls/{left}", action=action, project=project)
    for operation in begun:
        operations.settle(session, "global", operation, action=action, project=project)
    return LeaseNetwork(region=request.region, firewall_id=name, key_name="")


def remove(session: GcpSession, region: str, name: str) -> None:
    """Remove a lease's rules; a retryable error while machines still have its tag.

    Google would remove them under running machines, which then stood open to whatever
    else the network lets in.
    """
    if not NAME.fullmatch(name) or not naming.tags_of(name):
        raise ProviderError(_("“%(id)s” is no firewall of ours.") % {"id": name[:100]})
    action = _("Removing a firewall")
    for _zone, item in session.aggregated(
        "instances", region=region, action=action, filter=marks.ANY_OF_OURS
    ):
        if name in get(item, "tags.items", list, action=action, default=[]):
            raise ProviderError(
                _("%(action)s: the machine %(machine)s still uses it.")
                % {"action": action, "machine": str(item.get("name"))[:100]},
                retryable=True,
            )
    project, _network = session.network()
    for rule in sorted(_listed(session, name), key=lambda each: str(each["name"])):
        machines.gone(session, "DELETE", f"global/firewalls/{rule['name']}", action=action, project=project)


def rules(name: str, network: str, region: str, cidrs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rules, in the order in which Google applies them."""
    networks = {ipaddress.ip_network(cidr, strict=False) for cidr in cidrs}
    ranges = sorted(str(each) for each in networks if each.version == 4)
    if len(ranges) > MOST_RANGES:
        raise ProviderError(_("Google takes at most %(n)s addresses in one rule.") % {"n": MOST_RANGES})
    common = {
        "network": network,
        "direction": "INGRESS",
        "disabled": False,
        "targetTags": [name],
        "description": DESCRIPTION + region,
    }
    found = []
    if ranges:
        found.append(
            {
                **common,
                "name": f"{name}-{SSH}",
                "priority": FIRST + SSH,
                "sourceRanges": ranges,
                "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
            }
        )
    found.append(
        {
            **common,
            "name": f"{name}-{OWN}",
            "priority": FIRST + OWN,
            "sourceTags": [name],
            "allowed": [{"IPProtocol": "all"}],
        }
    )
    found.append(
        {
            **common,
            "name": f"{name}-{NOBODY_ELSE}",
            "priority": FIRST + NOBODY_ELSE,
            "sourceRanges": ["0.0.0.0/0"],
            "denied": [{"IPProtocol": "all"}],
        }
    )
    return found


def base_name(rule: str) -> str:
    """Return the firewall's id from the name of one of its rules."""
    return rule.rpartition("-")[0]


def region_of(rule: Mapping[str, Any]) -> str:
    """Return the region of the lease that a rule is for, or "" where it does not say."""
    text = str(rule.get("description") or "")
    return text.removeprefix(DESCRIPTION) if text.startswith(DESCRIPTION) else ""


def listed(session: GcpSession, name: str) -> list[Mapping[str, Any]]:
    """Return the rules whose names fit an expression (RE2)."""
    action = _("Listing firewall rules")
    project, _network = session.network()
    found = session.listing(
        "global/firewalls", action=action, project=project, filter=f'name eq "{name}-[0-9]"'
    )
    return [
        item
        for item in found
        if naming.tags_of(base_name(get(document(item, action), "name", str, action=action)))
    ]


def _listed(session: GcpSession, name: str) -> list[Mapping[str, Any]]:
    return [item for item in listed(session, name) if base_name(str(item["name"])) == name]


def _differs(known: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    def ordered(value: Any) -> Any:
        return sorted(value, key=str) if isinstance(value, list) else value

    return any(ordered(known.get(field) or None) != ordered(rule.get(field) or None) for field in COMPARED)


def _insert(session: GcpSession, project: str, rule: Mapping[str, Any], action: str) -> Any:
    try:
        return session.write("POST", "global/firewalls", rule, action=action, project=project)
    except ProviderError as error:
        if error.code not in TAKEN:
            raise
        # Another worker makes the same one just now: the next look corrects it where it differs.
        raise ProviderError(str(error), code=error.code, retryable=True, doubtful=False) from error
