"""A lease's own security group and key pair.

Inbound: the customer's addresses to tcp/22, and the lease's machines to each other.
Outbound stays open, with an explicit rule to the group itself: EFA traffic bypasses IP
and needs the group named in both directions
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa-start.html).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.aws.errors import translated
from inventory.providers.aws.session import AwsSession, tag_list
from inventory.providers.base import TAG_LEASE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import NotFound, ProviderError

SSH = 22
# EC2 imports no ECDSA and no security-key (sk-) keys; those go in by user data.
IMPORTABLE = ("ssh-ed25519 ", "ssh-rsa ")

Rule = tuple[str, int | None, int | None, str]  # protocol, from, to, source


def prepare(session: AwsSession, request: LeaseNetworkRequest) -> LeaseNetwork:
    """Make or correct the lease's group and key; safe to call again at any time."""
    tags = {**request.tags, TAG_LEASE: request.lease}
    name = f"sublet-{request.lease}"
    vpc = _vpc(session, request.region)
    group = _find_group(session, request.region, vpc, name)
    if group is None:
        group = _create_group(session, request.region, vpc, name, tags)
    _correct_rules(session, request.region, group, request.ssh_cidrs)
    return LeaseNetwork(
        region=request.region,
        firewall_id=group["GroupId"],
        key_name=_import_key(session, request.region, name, request.ssh_public_keys, tags),
    )


def remove(session: AwsSession, network: LeaseNetwork) -> None:
    """Remove group and key. A group still in use raises a retryable error."""
    if network.firewall_id:
        delete_group(session, network.region, network.firewall_id)
    if network.key_name:
        delete_key(session, network.region, network.key_name)


def delete_group(session: AwsSession, region: str, group_id: str) -> None:
    try:
        with translated("delete_security_group"):
            session.ec2(region).delete_security_group(GroupId=group_id)
    except NotFound:
        pass


def delete_key(session: AwsSession, region: str, name: str) -> None:
    try:
        with translated("delete_key_pair"):
            session.ec2(region).delete_key_pair(KeyName=name)
    except NotFound:
        pass


def _vpc(session: AwsSession, region: str) -> str:
    if configured := session.by_region("vpc_id", region):
        return configured
    vpcs = session.pages(
        region, "describe_vpcs", "Vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}]
    )
    for vpc in vpcs:
        return str(vpc["VpcId"])
    raise ProviderError(
        _("%(region)s has no default VPC: name one in the account setting “vpc_id”.") % {"region": region}
    )


def _find_group(session: AwsSession, region: str, vpc: str, name: str) -> dict[str, Any] | None:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    return next(session.pages(region, "describe_security_groups", "SecurityGroups", Filters=filters), None)


def _create_group(
    session: AwsSession, region: str, vpc: str, name: str, tags: dict[str, str]
) -> dict[str, Any]:
    try:
        with translated("create_security_group"):
            created = session.ec2(region).create_security_group(
                GroupName=name,
                Description="Sublet lease",
                VpcId=vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(tags)}],
            )
        filters = [{"Name": "group-id", "Values": [created["GroupId"]]}]
        listing = session.pages(region, "describe_security_groups", "SecurityGroups", Filters=filters)
        # Listings lag behind; the id is enough to add the rules.
        return next(listing, {"GroupId": created["GroupId"]})
    except ProviderError as error:
        if error.code == "InvalidGroup.Duplicate" and (group := _find_group(session, region, vpc, name)):
            return group
        raise


def _correct_rules(session: AwsSession, region: str, group: dict[str, Any], cidrs: Sequence[str]) -> None:
    ec2, group_id = session.ec2(region), group["GroupId"]
    own: Rule = ("-1", None, None, group_id)
    wanted = {own, *(("tcp", SSH, SSH, str(ipaddress.ip_network(cidr, strict=False))) for cidr in cidrs)}
    present = _rules(group.get("IpPermissions") or [])
    outbound = _rules(group.get("IpPermissionsEgress") or [])
    with translated("authorize_security_group"):
        if present - wanted:
            ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=_permissions(present - wanted))
        if wanted - present:
            ec2.authorize_security_group_ingress(
                GroupId=group_id, IpPermissions=_permissions(wanted - present)
            )
        if own not in outbound:
            ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=_permissions({own}))


def _rules(permissions: Sequence[dict[str, Any]]) -> set[Rule]:
    rules: set[Rule] = set()
    for item in permissions:
        sources = [
            *(source["CidrIp"] for source in item.get("IpRanges") or []),
            *(source["CidrIpv6"] for source in item.get("Ipv6Ranges") or []),
            *(source["GroupId"] for source in item.get("UserIdGroupPairs") or []),
        ]
        anything = item["IpProtocol"] == "-1"
        ports = (None, None) if anything else (item.get("FromPort"), item.get("ToPort"))
        rules.update((item["IpProtocol"], *ports, source) for source in sources)
    return rules


def _permissions(rules: set[Rule]) -> list[dict[str, Any]]:
    permissions = []
    for protocol, first, last, source in sorted(rules, key=str):
        permission: dict[str, Any] = {"IpProtocol": protocol}
        if first is not None:
            permission |= {"FromPort": first, "ToPort": last}
        if source.startswith("sg-"):
            permission["UserIdGroupPairs"] = [{"GroupId": source}]
        elif ":" in source:
            permission["Ipv6Ranges"] = [{"CidrIpv6": source}]
        else:
            permission["IpRanges"] = [{"CidrIp": source}]
        permissions.append(permission)
    return permissions


def _import_key(
    session: AwsSession, region: str, name: str, keys: Sequence[str], tags: dict[str, str]
) -> str:
    """Import the first key that EC2 accepts; return its name, or "" when it accepts none."""
    key = next((key.strip() for key in keys if key.strip().startswith(IMPORTABLE)), "")
    if not key:
        return ""
    with translated("import_key_pair"):
        ec2 = session.ec2(region)
        # Deleting the name first makes a changed key take effect; machines keep what they were given.
        ec2.delete_key_pair(KeyName=name)
        ec2.import_key_pair(
            KeyName=name,
            PublicKeyMaterial=key.encode(),
            TagSpecifications=[{"ResourceType": "key-pair", "Tags": tag_list(tags)}],
        )
    return name
