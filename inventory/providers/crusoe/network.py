"""A lease's own VPC network: nothing gets in or out but by its rules.

"Non-default (custom) VPC networks are not created with any default firewall rules.
Firewall rules implicitly deny traffic unless a rule explicitly allows the traffic."
(https://docs.crusoecloud.com/networking/firewall-rules/overview). The rules are those of
Crusoe's default network, with the lease's own addresses for SSH.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, TAG_SITE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.crusoe.api import CrusoeApi
from inventory.providers.crusoe.catalog import read_regions, region_of
from inventory.providers.errors import NotFound, ProviderError
from inventory.providers.fields import get

NETWORKS, SUBNETS, RULES = "list VPC networks", "list VPC subnets", "list VPC firewall rules"
PARTITIONS = "list IB partitions"
CIDR = "172.27.0.0/16"
SUBNET_BITS = 4  # a /20 for each location
ANYWHERE = "0.0.0.0/0"
OUR_NAME = re.compile(r"(sublet-[a-z0-9]{7}(?:-[tlum][a-z0-9]{16})+)(?:-(.+))?")


def prepare(api: CrusoeApi, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's network, its subnets and its rules; safe to call again at any time."""
    known = read_regions(api)
    if request.region not in known:  # before anything is made that no poll of a region would find
        raise NotFound(_("Crusoe has no region “%(region)s”.") % {"region": request.region})
    tags = {**request.tags, TAG_LEASE: request.lease}
    name = f"{naming.name_for(tags, limit=38)}-{request.region}"
    network = _network(api, name)
    _subnets(api, name, network, [zone.code for zone in known[request.region].zones])
    _rules(api, name, network, request.ssh_cidrs)
    _partitions(api, tags, [zone.code for zone in known[request.region].zones])
    return LeaseNetwork(region=request.region, firewall_id=network, key_name="")


def named(name: str) -> tuple[dict[str, str], str]:
    """Return the tags and the region that the name of a network carries, where it is one of ours."""
    match = OUR_NAME.fullmatch(name)
    tags = naming.tags_of(match[1]) if match else {}
    return tags, (match[2] or "") if match and tags else ""


def list_networks(api: CrusoeApi) -> list[dict[str, Any]]:
    """Return the networks of the project; each has an id and a name."""
    items: list[dict[str, Any]] = api.items(api.path("networking", "vpc-networks"), action=NETWORKS)
    for item in items:
        for field in ("id", "name"):
            get(item, field, str, action=NETWORKS)
    return items


def subnet_in(api: CrusoeApi, network: str, location: str) -> str:
    """Return the id of the network's subnet in a location. Raises :class:`ProviderError` without one."""
    for item in _parts(api, "vpc-subnets", network, action=SUBNETS):
        if get(item, "location", str, action=SUBNETS) == location:
            return get(item, "id", str, action=SUBNETS)
    raise ProviderError(
        _("The lease’s network has no subnet in %(location)s: Crusoe may have added the location later.")
        % {"location": location}
    )


def partition_in(api: CrusoeApi, tags: Mapping[str, str], location: str) -> str:
    """Return the id of the lease's partition of the fabric in a location; "" where the account names none."""
    if not api.options.by_region("ib_network", location):
        return ""
    name = _partition_name(tags, location)
    for item in api.items(api.path("networking", "ib-partitions"), action=PARTITIONS):
        if get(item, "name", str, action=PARTITIONS) == name:
            return get(item, "id", str, action=PARTITIONS)
    raise ProviderError(
        _("The lease has no partition of the fabric in %(location)s: “ib_network” was set after it began.")
        % {"location": location}
    )


def remove(api: CrusoeApi, network: str) -> None:
    """Remove a network with all that belongs to it. One that machines still use raises a retryable error."""
    for item in _parts(api, "vpc-firewall-rules", network, action=RULES):
        _delete(api, "vpc-firewall-rules", get(item, "id", str, action=RULES), "delete VPC firewall rule")
    for item in _parts(api, "vpc-subnets", network, action=SUBNETS):
        _delete(api, "vpc-subnets", get(item, "id", str, action=SUBNETS), "delete VPC subnet")
    for item in list_networks(api):
        if item["id"] == network:
            _remove_partitions(api, item["name"])
    _delete(api, "vpc-networks", network, "delete VPC network")


def _partition_name(tags: Mapping[str, str], location: str) -> str:
    lease = {tag: tags.get(tag, "") for tag in (TAG_SITE, TAG_LEASE)}
    return f"{naming.name_for(lease, limit=38)}-{location}"


def _partitions(api: CrusoeApi, tags: Mapping[str, str], locations: Iterable[str]) -> None:
    """Make the lease's own partition of each InfiniBand or RoCE network that the account names."""
    wanted = {
        _partition_name(tags, location): fabric
        for location in locations
        if (fabric := api.options.by_region("ib_network", location))
    }
    if not wanted:
        return
    for item in api.items(api.path("networking", "ib-partitions"), action=PARTITIONS):
        wanted.pop(get(item, "name", str, action=PARTITIONS), None)
    for name, fabric in wanted.items():
        body = {"name": name, "ib_network_id": fabric}
        action = "create IB partition"
        api.http.write("POST", api.path("networking", "ib-partitions"), action=action, json=body)


def _remove_partitions(api: CrusoeApi, name: str) -> None:
    """Remove the partitions of a lease in the region of one of its networks."""
    ours, region = named(name)
    if not ours:
        return
    for item in api.items(api.path("networking", "ib-partitions"), action=PARTITIONS):
        tags, location = named(get(item, "name", str, action=PARTITIONS))
        if tags == ours and region_of(location) == region:
            partition = quote(get(item, "id", str, action=PARTITIONS), safe="")
            with _later():
                path = api.path("networking", "ib-partitions", partition)
                api.http.write("DELETE", path, action="delete IB partition")


def _delete(api: CrusoeApi, kind: str, resource: str, action: str) -> None:
    """Begin a deletion."""
    with _later():
        api.operate("DELETE", api.path("networking", kind, quote(resource, safe="")), action=action)


@contextmanager
def _later() -> Iterator[None]:
    """Say that a deletion may be tried again: Crusoe refuses it, or lets it fail, while something is inside."""
    try:
        yield
    except NotFound:
        pass
    except ProviderError as error:
        if type(error) is not ProviderError or error.retryable:
            raise
        raise ProviderError(error.message, code=error.code, retryable=True) from error


def _network(api: CrusoeApi, name: str) -> str:
    for item in list_networks(api):
        if item["name"] == name:
            return str(item["id"])
    action = "create VPC network"
    body = {"name": name, "cidr": str(_cidr(api))}
    made = api.http.write("POST", api.path("networking", "vpc-networks"), action=action, json=body)
    return get(made, "network.id", str, action=action)


def _subnets(api: CrusoeApi, name: str, network: str, locations: Iterable[str]) -> None:
    """Make a subnet in every location of the region: which one a machine gets is known at its launch."""
    there = {
        get(item, "location", str, action=SUBNETS): get(item, "cidr", str, action=SUBNETS)
        for item in _parts(api, "vpc-subnets", network, action=SUBNETS)
    }
    free = (str(each) for each in _cidr(api).subnets(SUBNET_BITS) if str(each) not in there.values())
    for location, cidr in zip((each for each in locations if each not in there), free, strict=False):
        body = {
            "name": f"{_without_region(name)}-{location}",
            "cidr": cidr,
            "vpc_network_id": network,
            "location": location,
            "nat_gateway_enabled": False,
        }
        api.http.write("POST", api.path("networking", "vpc-subnets"), action="create VPC subnet", json=body)


def _without_region(name: str) -> str:
    match = OUR_NAME.fullmatch(name)
    return match[1] if match else name


def _cidr(api: CrusoeApi) -> ipaddress.IPv4Network:
    try:
        cidr = ipaddress.IPv4Network(api.options.text("network_cidr", CIDR))
    except ValueError:
        cidr = None
    if cidr is None or not 8 <= cidr.prefixlen <= 24 or not cidr.is_private:
        raise ProviderError(
            _("The account setting “network_cidr” must be a private IPv4 network from /8 to /24.")
        )
    return cidr


def _rules(api: CrusoeApi, name: str, network: str, cidrs: Iterable[str]) -> None:
    wanted = {f"{name}-{rule}": body for rule, body in _wanted(network, _ipv4(cidrs)).items()}
    for item in _parts(api, "vpc-firewall-rules", network, action=RULES):
        rule, rule_id = get(item, "name", str, action=RULES), get(item, "id", str, action=RULES)
        if rule in wanted and _same(item, wanted[rule]):
            del wanted[rule]
        else:  # not ours, or not as it should be: what it would let in must not
            _delete(api, "vpc-firewall-rules", rule_id, "delete VPC firewall rule")
    for rule, body in wanted.items():
        api.operate(
            "POST",
            api.path("networking", "vpc-firewall-rules"),
            action="create VPC firewall rule",
            json={"name": rule, "vpc_network_id": network, **body},
        )


def _wanted(network: str, sources: list[str]) -> dict[str, dict[str, Any]]:
    inside, outside = [{"resource_id": network}], [{"cidr": ANYWHERE}]

    def rule(direction: str, protocols: list[str], source: Any, destination: Any, ports: Any = ()) -> Any:
        return {
            "direction": direction,
            "action": "allow",
            "protocols": protocols,
            "sources": source,
            "source_ports": [],
            "destinations": destination,
            "destination_ports": list(ports),
        }

    rules = {
        "in": rule("ingress", ["tcp", "udp"], inside, inside),
        "in-icmp": rule("ingress", ["icmp"], inside, inside),
        "out": rule("egress", ["tcp", "udp"], inside, outside),
        "out-icmp": rule("egress", ["icmp"], inside, outside),
    }
    if sources:
        rules["ssh"] = rule("ingress", ["tcp"], [{"cidr": cidr} for cidr in sources], inside, ["22"])
    return rules


def _same(item: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Tell whether a rule is there as it should be, whatever the order in it."""
    return get(item, "state", str, action=RULES, default="active") == "active" and all(
        _plain(item.get(field)) == _plain(value) for field, value in body.items()
    )


def _plain(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    parts = [
        str(each.get("cidr") or each.get("resource_id")) if isinstance(each, Mapping) else str(each)
        for each in value
    ]
    return sorted(parts)


def _ipv4(cidrs: Iterable[str]) -> list[str]:
    """Return the IPv4 networks: "Currently, we only support IPv4"."""
    networks = {ipaddress.ip_network(cidr, strict=False) for cidr in cidrs}
    return sorted(str(network) for network in networks if network.version == 4)


def _parts(api: CrusoeApi, kind: str, network: str, *, action: str) -> list[dict[str, Any]]:
    """Return the subnets or the rules of one network."""
    return [
        item
        for item in api.items(api.path("networking", kind), action=action)
        if get(item, "vpc_network_id", str, action=action) == network
    ]
