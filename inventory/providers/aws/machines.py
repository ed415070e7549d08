"""Launching, reading and ending EC2 instances, and finding everything that is ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.aws import network
from inventory.providers.aws.errors import translated
from inventory.providers.aws.session import FILTER_VALUES, AwsSession, tag_list, tags_of, utc
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    LaunchedInstance,
    LaunchGroup,
    Machine,
    MachineState,
    OwnedResource,
    PurchaseOption,
    ResourceKind,
)
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import BadAnswer, NotFound, ProviderError

STATES = {
    "pending": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "shutting-down": MachineState.STOPPING,
    "stopping": MachineState.STOPPING,
    "stopped": MachineState.STOPPING,
    "terminated": MachineState.TERMINATED,
}
TAGGED_AT_LAUNCH = ("instance", "volume", "network-interface")
OUR_TAGS: dict[str, Any] = {"Name": "tag-key", "Values": [TAG_SITE, TAG_LEASE, TAG_ALLOCATION, TAG_TOKEN]}


def launch(session: AwsSession, group: LaunchGroup) -> list[LaunchedInstance]:
    """Run the group's instances in one call that is never repeated here."""
    parameters = launch_parameters(session, group)
    with translated("run_instances"):
        answer = session.ec2(group.region, attempts=1).run_instances(**parameters)
    launched = [
        LaunchedInstance(
            id=item["InstanceId"],
            zone=(item.get("Placement") or {}).get("AvailabilityZone", ""),
            raw_state=(item.get("State") or {}).get("Name", ""),
        )
        for item in answer.get("Instances") or []
    ]
    if len(launched) != group.count:
        raise BadAnswer(
            _("run_instances: %(got)s of %(wanted)s instances in the answer.")
            % {"got": len(launched), "wanted": group.count}
        )
    return launched


def launch_parameters(session: AwsSession, group: LaunchGroup) -> dict[str, Any]:
    """Return the parameters of RunInstances.

    A reservation is targeted, and nothing else is allowed: EC2 then fails rather than
    buying on demand. Without one, preference *none* keeps an on-demand launch from
    using up capacity that is reserved for another lease.
    """
    all_tags = tag_list({**group.tags, TAG_TOKEN: group.client_token})
    parameters: dict[str, Any] = {
        "ImageId": image_id(session, group.region, group.image),
        "InstanceType": group.instance_type,
        "MinCount": group.count,
        "MaxCount": group.count,
        "ClientToken": group.client_token,
        "TagSpecifications": [{"ResourceType": kind, "Tags": all_tags} for kind in TAGGED_AT_LAUNCH],
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "none"},
    }
    if group.zone:
        parameters["Placement"] = {"AvailabilityZone": group.zone}
        if subnet := (session.settings.get("subnets") or {}).get(group.zone):
            parameters["SubnetId"] = subnet
    if group.firewall_id:
        parameters["SecurityGroupIds"] = [group.firewall_id]
    if group.key_name:
        parameters["KeyName"] = group.key_name
    if data := user_data(group.ssh_public_keys, group.user_data):
        parameters["UserData"] = data
    if group.reservation_id:
        by_arn = group.reservation_id.startswith("arn:")
        name = "CapacityReservationResourceGroupArn" if by_arn else "CapacityReservationId"
        parameters["CapacityReservationSpecification"] = {
            "CapacityReservationTarget": {name: group.reservation_id}
        }
        if group.reservation_id in (session.settings.get("capacity_blocks") or []):
            parameters["InstanceMarketOptions"] = {"MarketType": "capacity-block"}
    elif group.purchase_option == PurchaseOption.SPOT:
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return parameters


def image_id(session: AwsSession, region: str, image: str) -> str:
    """Return the AMI id of an image: one itself, or what an SSM parameter (``/…``, ``ssm:…``) holds now.

    Without an image, the account's own for the region, by id or by SSM parameter.
    """
    image = image or session.by_region("image", region)
    if image and not image.startswith(("/", "ssm:")):
        return image
    parameter = image.removeprefix("ssm:") or session.by_region("image_ssm_parameter", region)
    if not parameter:
        raise ProviderError(
            _("No image for %(region)s: set “image” or “image_ssm_parameter” on the account.")
            % {"region": region}
        )
    with translated("get_parameter"):
        answer = session.client("ssm", region).get_parameter(Name=parameter)
    return str(answer["Parameter"]["Value"])


def find(session: AwsSession, region: str, tag: str, value: str) -> list[Machine]:
    filters = [{"Name": f"tag:{tag}", "Values": [value]}]
    return _with_status(session, region, list(_instances(session, region, filters)))


def describe(session: AwsSession, region: str, ids: Sequence[str]) -> list[Machine]:
    """Filter by id instead of naming ids: EC2 fails the whole call for one unknown id."""
    machines: list[Machine] = []
    for chunk in _chunks(ids):
        filters = [{"Name": "instance-id", "Values": chunk}]
        machines += _with_status(session, region, list(_instances(session, region, filters)))
    return machines


def reclaim(session: AwsSession, region: str, ids: Sequence[str]) -> None:
    """Terminate; where one id is unknown EC2 ends none, so then each is ended alone."""
    for chunk in _chunks(ids):
        try:
            _terminate(session, region, chunk)
        except NotFound:
            for one in chunk:
                try:
                    _terminate(session, region, [one])
                except NotFound:
                    continue


def list_owned(session: AwsSession, region: str) -> Iterator[OwnedResource]:
    """Yield instances, volumes, addresses, security groups and keys with one of our tags."""
    ours = {"Filters": [OUR_TAGS]}
    for reservation in session.pages(region, "describe_instances", "Reservations", **ours):
        for item in reservation.get("Instances") or []:
            if item["State"]["Name"] != "terminated":
                yield _owned(ResourceKind.INSTANCE, region, item, "InstanceId", "LaunchTime")
    for item in session.pages(region, "describe_volumes", "Volumes", **ours):
        yield _owned(ResourceKind.VOLUME, region, item, "VolumeId", "CreateTime")
    for item in session.pages(region, "describe_security_groups", "SecurityGroups", **ours):
        yield _owned(ResourceKind.NETWORK, region, item, "GroupId", "")
    for item in session.pages(region, "describe_addresses", "Addresses", **ours):
        yield _owned(ResourceKind.ADDRESS, region, item, "AllocationId", "")
    # Not every EC2-compatible endpoint filters keys by tag; an account has few.
    for item in session.pages(region, "describe_key_pairs", "KeyPairs"):
        if not tags_of(item).keys().isdisjoint(OUR_TAGS["Values"]):
            yield _owned(ResourceKind.KEY, region, item, "KeyName", "CreateTime")


def remove(session: AwsSession, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    ec2 = session.ec2(resource.region)
    try:
        match resource.kind:
            case ResourceKind.INSTANCE:
                _terminate(session, resource.region, [resource.id])
            case ResourceKind.VOLUME:
                with translated("delete_volume"):
                    ec2.delete_volume(VolumeId=resource.id)
            case ResourceKind.ADDRESS:
                with translated("release_address"):
                    ec2.release_address(AllocationId=resource.id)
            case ResourceKind.NETWORK:
                network.delete_group(session, resource.region, resource.id)
            case ResourceKind.KEY:
                network.delete_key(session, resource.region, resource.id)
    except NotFound:
        pass


def _terminate(session: AwsSession, region: str, ids: Sequence[str]) -> None:
    with translated("terminate_instances"):
        session.ec2(region).terminate_instances(InstanceIds=list(ids))


def _instances(session: AwsSession, region: str, filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for reservation in session.pages(region, "describe_instances", "Reservations", Filters=filters):
        yield from reservation.get("Instances") or []


def _with_status(session: AwsSession, region: str, items: list[dict[str, Any]]) -> list[Machine]:
    running = [item["InstanceId"] for item in items if item["State"]["Name"] == "running"]
    status: dict[str, bool | None] = {}
    for chunk in _chunks(running):
        checks = session.pages(region, "describe_instance_status", "InstanceStatuses", InstanceIds=chunk)
        for check in checks:
            status[check["InstanceId"]] = _healthy(check)
    return [_machine(region, item, status.get(item["InstanceId"])) for item in items]


def _healthy(check: dict[str, Any]) -> bool | None:
    answers = {(check.get(part) or {}).get("Status") for part in ("InstanceStatus", "SystemStatus")}
    if answers == {"ok"}:
        return True
    return False if "impaired" in answers else None


def _machine(region: str, item: dict[str, Any], status_ok: bool | None) -> Machine:
    raw = item["State"]["Name"]
    return Machine(
        id=item["InstanceId"],
        region=region,
        state=STATES.get(raw, MachineState.UNKNOWN),
        raw_state=raw,
        zone=(item.get("Placement") or {}).get("AvailabilityZone", ""),
        instance_type=item.get("InstanceType", ""),
        public_ip=item.get("PublicIpAddress") or "",
        private_ip=item.get("PrivateIpAddress") or "",
        tags=tags_of(item),
        launched_at=utc(item.get("LaunchTime")),
        status_ok=status_ok,
        reason=(item.get("StateReason") or {}).get("Message") or item.get("StateTransitionReason") or "",
    )


def _owned(
    kind: ResourceKind, region: str, item: dict[str, Any], id_field: str, time_field: str
) -> OwnedResource:
    state = item.get("State") or ""
    return OwnedResource(
        kind=kind,
        id=item[id_field],
        region=region,
        tags=tags_of(item),
        created_at=utc(item.get(time_field)) if time_field else None,
        state=state["Name"] if isinstance(state, dict) else state,
    )


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    ordered = list(ids)
    for start in range(0, len(ordered), FILTER_VALUES):
        yield ordered[start : start + FILTER_VALUES]
