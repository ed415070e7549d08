"""A lease's own network: one security group, which denies whatever no rule of it allows."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from django.utils.translation import gettext as _
from nebius.api.nebius.common.v1 import ResourceMetadata
from nebius.api.nebius.vpc.v1 import (
    CreateSecurityGroupRequest,
    CreateSecurityRuleRequest,
    DeleteSecurityGroupRequest,
    DeleteSecurityRuleRequest,
    GetSubnetRequest,
    ListSecurityGroupsRequest,
    ListSecurityRulesRequest,
    ListSubnetsRequest,
    RuleAccessAction,
    RuleEgress,
    RuleIngress,
    RuleProtocol,
    SecurityGroupServiceClient,
    SecurityGroupSpec,
    SecurityRuleServiceClient,
    SecurityRuleSpec,
    SubnetServiceClient,
)

from inventory.providers import naming
from inventory.providers.base import LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import NotFound, ProviderError
from inventory.providers.nebius.session import Session, understood

SSH = 22
MOST_CIDRS = 8  # "Specify at most 8 CIDRs"
LONGEST_NAME = 63
GROUPS, RULES, SUBNETS = "list security groups", "list security rules", "list subnets"

# Direction, protocol, sources, ports and source group of a rule that allows.
Rule = tuple[str, int, tuple[str, ...], tuple[int, ...], str]


def prepare(session: Session, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's security group: SSH from its addresses, and anything among its machines."""
    project = session.project(request.region)
    name = naming.name_for(request.tags, limit=LONGEST_NAME)
    group = _group(session, project, name)
    if not group:
        made = session.once(
            SecurityGroupServiceClient(session.sdk()).create,
            CreateSecurityGroupRequest(
                metadata=ResourceMetadata(
                    parent_id=project, name=name, labels=naming.to_labels(request.tags)
                ),
                spec=SecurityGroupSpec(network_id=subnet(session, request.region)[1]),
            ),
            action="create security group",
        )
        with understood("create security group"):
            group = str(made.resource_id)
    _correct(session, group, wanted(request.ssh_cidrs, group))
    return LeaseNetwork(region=request.region, firewall_id=group, key_name="")


def wanted(cidrs: Iterable[str], group: str) -> set[Rule]:
    """Return the rules of a lease's group; IPv4 only, since machines have no other address."""
    networks = sorted({ipaddress.ip_network(cidr, strict=False) for cidr in cidrs if ":" not in cidr})
    sources = [str(network) for network in networks]
    rules: set[Rule] = {
        ("in", int(RuleProtocol.TCP), tuple(sources[start : start + MOST_CIDRS]), (SSH,), "")
        for start in range(0, len(sources), MOST_CIDRS)
    }
    rules.add(("in", int(RuleProtocol.ANY), (), (), group))
    rules.add(("out", int(RuleProtocol.ANY), (), (), ""))
    return rules


def _correct(session: Session, group: str, rules: set[Rule]) -> None:
    client = SecurityRuleServiceClient(session.sdk())
    missing = set(rules)
    surplus: list[str] = []
    for item in session.pages(client.list, ListSecurityRulesRequest, action=RULES, parent_id=group):
        with understood(RULES):
            id_, rule = str(item.metadata.id), _rule(item.spec)
        if rule in missing:
            missing.discard(rule)
        else:
            surplus.append(id_)
    for rule in sorted(missing):
        session.once(
            client.create,
            CreateSecurityRuleRequest(metadata=ResourceMetadata(parent_id=group), spec=_spec(rule)),
            action="create security rule",
        )
    for id_ in surplus:
        _delete(session, client, DeleteSecurityRuleRequest(id=id_), "delete security rule")


def _rule(spec: Any) -> Rule | None:
    """Return a rule as we write ours; None for one that none of ours looks like."""
    if spec.access != RuleAccessAction.ALLOW:
        return None
    if spec.ingress is not None:
        match = spec.ingress
        sources = tuple(sorted(match.source_cidrs, key=ipaddress.ip_network))
        ports, other = tuple(match.destination_ports), str(match.source_security_group_id)
        return ("in", int(spec.protocol), sources, ports, other)
    match = spec.egress
    if match is None or match.destination_cidrs or match.destination_security_group_id:
        return None
    return ("out", int(spec.protocol), (), tuple(match.destination_ports), "")


def _spec(rule: Rule) -> SecurityRuleSpec:
    direction, protocol, sources, ports, group = rule
    fields: dict[str, Any] = {"access": RuleAccessAction.ALLOW, "protocol": RuleProtocol(protocol)}
    if direction == "out":
        return SecurityRuleSpec(**fields, egress=RuleEgress(destination_ports=ports))
    ingress = RuleIngress(source_cidrs=sources, destination_ports=ports)
    if group:
        ingress.source_security_group_id = group
    return SecurityRuleSpec(**fields, ingress=ingress)


def _group(session: Session, project: str, name: str) -> str:
    for item in list_groups(session, project):
        with understood(GROUPS):
            if item.metadata.name == name:
                return str(item.metadata.id)
    return ""


def list_groups(session: Session, project: str) -> Iterator[Any]:
    client = SecurityGroupServiceClient(session.sdk())
    return session.pages(client.list, ListSecurityGroupsRequest, action=GROUPS, parent_id=project)


def remove_group(session: Session, group: str) -> None:
    """Remove a security group with its rules; retryable while machines still use it."""
    rules = SecurityRuleServiceClient(session.sdk())
    try:
        found = list(session.pages(rules.list, ListSecurityRulesRequest, action=RULES, parent_id=group))
    except NotFound:
        return
    groups = SecurityGroupServiceClient(session.sdk())
    try:
        _delete(session, groups, DeleteSecurityGroupRequest(id=group), "delete security group")
    except ProviderError as error:
        if not found or not error.retryable:
            raise
        # Where a group goes only after its rules, they go first: nothing is reachable then.
        for item in found:
            with understood(RULES):
                id_ = str(item.metadata.id)
            _delete(session, rules, DeleteSecurityRuleRequest(id=id_), "delete security rule")
        _delete(session, groups, DeleteSecurityGroupRequest(id=group), "delete security group")


def _delete(session: Session, client: Any, request: Any, action: str) -> None:
    try:
        session.once(client.delete, request, action=action)
    except NotFound:
        pass


def subnet(session: Session, region: str) -> tuple[str, str]:
    """Return the ids of the subnet for machines in a region and of its network."""
    client = SubnetServiceClient(session.sdk())
    if chosen := session.by_region("subnets").get(region):
        found = [session.read(client.get, GetSubnetRequest(id=chosen), action="get subnet")]
    else:
        project = session.project(region)
        found = list(session.pages(client.list, ListSubnetsRequest, action=SUBNETS, parent_id=project))
    if len(found) != 1:
        raise ProviderError(
            _("The project in %(region)s has %(n)s subnets: choose one in the account setting “subnets”.")
            % {"region": region, "n": len(found)}
        )
    with understood(SUBNETS):
        return str(found[0].metadata.id), str(found[0].spec.network_id)
