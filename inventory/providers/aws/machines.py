"""Reading and ending EC2 instances, and finding everything that is ours.

States: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from inventory.providers.aws import network
from inventory.providers.aws.errors import translated
from inventory.providers.aws.session import FILTER_VALUES, AwsSession, tags_of, utc
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    Machine,
    MachineState,
    OwnedResource,
    ResourceKind,
)
from inventory.providers.errors import NotFound
from inventory.providers.fields import get

STATES = {
    "pending": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "shutting-down": MachineState.STOPPING,
    "stopping": MachineState.STOPPING,
    "stopped": MachineState.STOPPING,
    "terminated": MachineState.TERMINATED,
}
INSTANCES, STATUS = "describe_instances", "describe_instance_status"
OUR_TAGS: dict[str, Any] = {"Name": "tag-key", "Values": [TAG_SITE, TAG_LEASE, TAG_ALLOCATION, TAG_TOKEN]}


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
    ours: dict[str, Any] = {"Filters": [OUR_TAGS]}
    for reservation in session.pages(region, INSTANCES, "Reservations", **ours):
        for item in reservation.get("Instances") or []:
            if get(item, "State.Name", str, action=INSTANCES) != "terminated":
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
    for reservation in session.pages(region, INSTANCES, "Reservations", Filters=filters):
        yield from reservation.get("Instances") or []


def _with_status(session: AwsSession, region: str, items: list[dict[str, Any]]) -> list[Machine]:
    machines = [_machine(region, item) for item in items]
    status: dict[str, bool | None] = {}
    for chunk in _chunks(machine.id for machine in machines if machine.raw_state == "running"):
        checks = session.pages(region, STATUS, "InstanceStatuses", InstanceIds=chunk)
        for check in checks:
            status[get(check, "InstanceId", str, action=STATUS)] = _healthy(check)
    return [replace(machine, status_ok=status.get(machine.id)) for machine in machines]


def _healthy(check: dict[str, Any]) -> bool | None:
    answers = {(check.get(part) or {}).get("Status") for part in ("InstanceStatus", "SystemStatus")}
    if answers == {"ok"}:
        return True
    return False if "impaired" in answers else None


def _machine(region: str, item: dict[str, Any]) -> Machine:
    raw = get(item, "State.Name", str, action=INSTANCES)
    return Machine(
        id=get(item, "InstanceId", str, action=INSTANCES),
        region=region,
        state=STATES.get(raw, MachineState.UNKNOWN),
        raw_state=raw,
        zone=get(item, "Placement.AvailabilityZone", str, action=INSTANCES, default=""),
        instance_type=item.get("InstanceType", ""),
        public_ip=item.get("PublicIpAddress") or "",
        private_ip=item.get("PrivateIpAddress") or "",
        tags=tags_of(item),
        launched_at=utc(item.get("LaunchTime")),
        reason=(item.get("StateReason") or {}).get("Message") or item.get("StateTransitionReason") or "",
    )


def _owned(
    kind: ResourceKind, region: str, item: dict[str, Any], id_field: str, time_field: str
) -> OwnedResource:
    state = item.get("State") or ""
    return OwnedResource(
        kind=kind,
        id=get(item, id_field, str, action="list_owned"),
        region=region,
        tags=tags_of(item),
        created_at=utc(item.get(time_field)) if time_field else None,
        state=state["Name"] if isinstance(state, dict) else state,
    )


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    ordered = list(ids)
    for start in range(0, len(ordered), FILTER_VALUES):
        yield ordered[start : start + FILTER_VALUES]
