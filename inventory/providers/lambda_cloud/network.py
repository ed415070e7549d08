"""A lease's own firewall ruleset and SSH key.

A ruleset adds to the workspace's global one, whose rules apply to every instance, and no
rules apply in us-south-1 (Lambda Cloud API 1.10.0). A lease is promised that nothing else
gets in, so both are refused unless the account accepts them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.fields import get
from inventory.providers.lambda_cloud.api import LambdaApi

SSH = 22
LONGEST_NAME = 64
WITHOUT_RULES = {"us-south-1"}
RULESETS, KEYS = "list firewall rulesets", "list SSH keys"

Rule = tuple[str, tuple[int, ...], str]  # protocol, ports, source


def prepare(api: LambdaApi, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's ruleset and key; safe to call again at any time."""
    _refuse_open_network(api, request.region)
    tags = {**request.tags, TAG_LEASE: request.lease}
    firewall = ""
    if request.region not in WITHOUT_RULES:
        firewall = _ruleset(api, request.region, naming.name_for(tags, limit=LONGEST_NAME), request.ssh_cidrs)
    key = next((key.strip() for key in request.ssh_public_keys if key.strip()), "")
    name = _register(api, key_name(tags, request.region), key) if key else ""
    return LeaseNetwork(region=request.region, firewall_id=firewall, key_name=name)


def remove(api: LambdaApi, network: LeaseNetwork) -> None:
    """Remove ruleset and key. A ruleset that machines still use raises a retryable error."""
    if network.firewall_id:
        delete_ruleset(api, network.firewall_id)
    if network.key_name:
        delete_key(api, network.key_name)


def delete_ruleset(api: LambdaApi, ruleset_id: str) -> None:
    api.delete("/firewall-rulesets", ruleset_id, action="delete firewall ruleset")


def delete_key(api: LambdaApi, name: str) -> None:
    """Delete every key of this name: nothing says that a name is there only once."""
    for item in list_keys(api):
        if item["name"] == name:
            api.delete("/ssh-keys", item["id"], action="delete SSH key")


def list_rulesets(api: LambdaApi) -> list[dict[str, Any]]:
    """Return the rulesets of the workspace; each has an id, a name and a region."""
    items: list[dict[str, Any]] = api.read("/firewall-rulesets", action=RULESETS, kind=list)
    for item in items:
        for field in ("id", "name", "region.name"):
            get(item, field, str, action=RULESETS)
    return items


def list_keys(api: LambdaApi) -> list[dict[str, Any]]:
    """Return the keys of the workspace; each has an id and a name."""
    items: list[dict[str, Any]] = api.read("/ssh-keys", action=KEYS, kind=list)
    for item in items:
        for field in ("id", "name"):
            get(item, field, str, action=KEYS)
    return items


def key_name(tags: Mapping[str, str], region: str) -> str:
    """Return the name of a lease's key in a region: keys have no region, so their name says it."""
    return f"{naming.name_for(tags, limit=LONGEST_NAME - 1 - len(region))}.{region}"


def key_tags(name: str) -> tuple[dict[str, str], str]:
    """Return the tags and the region that the name of a key carries, where it is one of ours."""
    ours, _dot, region = name.partition(".")
    return naming.tags_of(ours), region


def _refuse_open_network(api: LambdaApi, region: str) -> None:
    if api.flag("accept_open_network"):
        return
    if region in WITHOUT_RULES:
        raise ProviderError(
            _(
                "Firewall rules do not apply in %(region)s. Sell no leases there, or set "
                "“accept_open_network” on the account."
            )
            % {"region": region}
        )
    action = "get global firewall ruleset"
    found = api.read("/firewall-rulesets/global", action=action, kind=dict)
    rules = _rules(get(found, "rules", list, action=action), action)
    # An echo request tells that a machine is there, and nothing else.
    if wide := sorted(rule for rule in rules if rule[0] != "icmp"):
        protocol, ports, source = wide[0]
        raise ProviderError(
            _(
                "The workspace’s global firewall rules let %(source)s reach every machine "
                "(%(protocol)s %(ports)s). Remove such rules at Lambda, or set “accept_open_network” "
                "on the account."
            )
            % {"source": source, "protocol": protocol, "ports": "-".join(map(str, ports))}
        )


def _ruleset(api: LambdaApi, region: str, name: str, cidrs: Iterable[str]) -> str:
    wanted = [
        {"protocol": "tcp", "port_range": [SSH, SSH], "source_network": source, "description": "SSH"}
        for source in _ipv4(cidrs)
    ]
    for item in list_rulesets(api):
        if (item["name"], item["region"]["name"]) == (name, region):
            present = _rules(get(item, "rules", list, action=RULESETS), RULESETS)
            if present != _rules(wanted, RULESETS):
                path = f"/firewall-rulesets/{quote(item['id'], safe='')}"
                action = "update firewall ruleset"
                api.write("PATCH", path, action=action, kind=dict, json={"rules": wanted})
            return str(item["id"])
    action = "create firewall ruleset"
    made = api.write(
        "POST",
        "/firewall-rulesets",
        action=action,
        kind=dict,
        json={"name": name, "region": region, "rules": wanted},
    )
    return get(made, "id", str, action=action)


def _ipv4(cidrs: Iterable[str]) -> list[str]:
    """Return the IPv4 networks: Lambda's rules know no others, and its machines have no IPv6 address."""
    networks = {ipaddress.ip_network(cidr, strict=False) for cidr in cidrs}
    return sorted(str(network) for network in networks if network.version == 4)


def _rules(items: Iterable[Any], action: str) -> set[Rule]:
    rules: set[Rule] = set()
    for item in items:
        source = get(item, "source_network", str, action=action)
        ports = get(item, "port_range", list, action=action, default=[])
        try:
            network = str(ipaddress.ip_network(source, strict=False))
            rules.add(
                (get(item, "protocol", str, action=action), tuple(int(port) for port in ports), network)
            )
        except (ValueError, TypeError) as error:
            raise BadAnswer(_("%(action)s: a rule cannot be read.") % {"action": action}) from error
    return rules


def _register(api: LambdaApi, name: str, key: str) -> str:
    """Register the lease's first key; the others come with cloud-init."""
    for item in list_keys(api):
        if item["name"] == name:
            if _material(str(item.get("public_key") or "")) == _material(key):
                return name
            # Machines keep what they were given; the next ones get the new key.
            api.delete("/ssh-keys", item["id"], action="delete SSH key")
    action = "add SSH key"
    api.write("POST", "/ssh-keys", action=action, kind=dict, json={"name": name, "public_key": key})
    return name


def _material(key: str) -> list[str]:
    """Return kind and key without the comment."""
    return key.split()[:2]
