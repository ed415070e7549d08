"""Launching, reading and ending Lambda instances, and finding everything that is ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import (
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
from inventory.providers.errors import BadAnswer, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.lambda_cloud import network
from inventory.providers.lambda_cloud.api import INVALID, LambdaApi

# InstanceStatus of Lambda Cloud API 1.10.0. The second is Lambda's own opinion of its health.
STATES: dict[str, tuple[MachineState, bool | None]] = {
    "booting": (MachineState.PENDING, None),
    "active": (MachineState.RUNNING, True),
    "unhealthy": (MachineState.RUNNING, False),
    "terminating": (MachineState.STOPPING, None),
    "terminated": (MachineState.TERMINATED, None),
    "preempted": (MachineState.TERMINATED, None),
}
LIST, LAUNCH = "list instances", "launch instance"
# Ids that a listing lacks are asked for one by one, as far as the limit of a call per second allows.
ASKED_ALONE = 15
# Ids are 32 hexadecimal digits, or the same with hyphens; anything else names a family.
IMAGE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LONGEST_NAME, LONGEST_TAG = 64, 128
LARGEST_USER_DATA = 1_000_000  # bytes: "cannot exceed 1MB"


def launch(api: LambdaApi, group: LaunchGroup) -> list[LaunchedInstance]:
    """Launch one instance in one call that is never repeated here."""
    answer = api.write(
        "POST",
        "/instance-operations/launch",
        action=LAUNCH,
        kind=dict,
        limit=api.launch_limit,
        json=launch_parameters(api, group),
    )
    ids = get(answer, "instance_ids", list, action=LAUNCH)
    if len(ids) != 1 or not isinstance(ids[0], str) or not ids[0]:
        raise BadAnswer(_("%(action)s: one instance was expected in the answer.") % {"action": LAUNCH})
    return [LaunchedInstance(id=ids[0], raw_state="booting")]


def launch_parameters(api: LambdaApi, group: LaunchGroup) -> dict[str, Any]:
    """Return the body of a launch. Raises :class:`NotSupported` for what Lambda has not."""
    if group.count != 1:
        raise NotSupported(_("Lambda launches one instance per call."))
    if group.reservation_id or group.purchase_option != PurchaseOption.ON_DEMAND:
        raise NotSupported(_("Lambda’s API launches on demand only: it knows no reservations and no spot."))
    key = group.key_name or api.by_region("ssh_key_name", group.region)
    if not key:
        raise ProviderError(
            _(
                "Lambda launches nothing without an SSH key: add one to the lease, or set “ssh_key_name” "
                "on the account."
            )
        )
    tags = {**group.tags, TAG_TOKEN: group.client_token}
    parameters: dict[str, Any] = {
        "region_name": group.region,
        "instance_type_name": group.instance_type,
        "ssh_key_names": [key],
        "name": naming.name_for(tags, limit=LONGEST_NAME),
        "tags": [{"key": name, "value": _short(value)} for name, value in sorted(tags.items())],
    }
    if image := group.image or api.by_region("image", group.region):
        parameters["image"] = image_reference(image)
    if group.firewall_id:
        parameters["firewall_rulesets"] = [{"id": group.firewall_id}]
    if data := user_data(group.ssh_public_keys, group.user_data):
        if len(data.encode()) > LARGEST_USER_DATA:
            raise ProviderError(_("The user data is larger than the 1 MB that Lambda takes."))
        parameters["user_data"] = data
    return parameters


def image_reference(image: str) -> dict[str, str]:
    """Return an image by its id (``id:…`` or an id itself) or by its family (``family:…`` or any other)."""
    kind, colon, name = image.partition(":")
    if colon and kind in ("id", "family"):
        return {kind: name}
    return {"id": image} if IMAGE_ID.fullmatch(image) else {"family": image}


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_TAG else naming.DIGEST + naming.digest(value)


def find(api: LambdaApi, region: str, tag: str, value: str) -> list[Machine]:
    return [
        machine
        for machine in _listed(api)
        if machine.region == region and naming.matches(machine.tags, tag, value)
    ]


def describe(api: LambdaApi, ids: Sequence[str]) -> list[Machine]:
    """Return the machines; one that the list of running ones lacks is asked for by its id.

    Those beyond what the limit allows to ask are *unknown*: nobody has said that they ended.
    """
    if not ids:
        return []
    wanted = set(ids)
    found = {machine.id: machine for machine in _listed(api) if machine.id in wanted}
    unlisted = sorted(wanted - found.keys())
    for missing in unlisted[:ASKED_ALONE]:
        if machine := _one(api, missing):
            found[missing] = machine
    for missing in unlisted[ASKED_ALONE:]:
        found[missing] = Machine(missing, "", MachineState.UNKNOWN, reason=_("Lambda does not list it."))
    return [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]


def reclaim(api: LambdaApi, ids: Sequence[str]) -> None:
    """Terminate; where Lambda refuses the list for one of them, each is ended alone."""
    if not ids:
        return
    try:
        _terminate(api, list(ids))
    except ProviderError as error:
        if not isinstance(error, NotFound) and error.code != INVALID:
            raise
        for one in ids:
            _terminate_one(api, one)


def _terminate_one(api: LambdaApi, instance_id: str) -> None:
    try:
        _terminate(api, [instance_id])
    except NotFound:
        pass
    except ProviderError as error:
        # What is ending or gone cannot be ended, and need not be.
        machine = _one(api, instance_id) if error.code == INVALID else None
        ended = machine and machine.state in (MachineState.STOPPING, MachineState.TERMINATED)
        if error.code != INVALID or (machine and not ended):
            raise


def _terminate(api: LambdaApi, ids: list[str]) -> None:
    action = "terminate instances"
    api.write("POST", "/instance-operations/terminate", action=action, kind=dict, json={"instance_ids": ids})


def list_owned(api: LambdaApi, region: str) -> Iterator[OwnedResource]:
    """Yield instances, filesystems, rulesets and keys that carry one of our tags, or a name of ours."""
    for machine in _listed(api):
        if machine.region == region and machine.tags and machine.state != MachineState.TERMINATED:
            yield OwnedResource(
                ResourceKind.INSTANCE, machine.id, region, machine.tags, state=machine.raw_state
            )
    action = "list filesystems"
    for item in api.read("/file-systems", action=action, kind=list):
        place = get(item, "region.name", str, action=action)
        tags = naming.tags_of(get(item, "name", str, action=action))
        if tags and place == region:
            yield OwnedResource(
                ResourceKind.VOLUME,
                get(item, "id", str, action=action),
                region,
                tags,
                created_at=moment(item.get("created")),
                state="in use" if item.get("is_in_use") else "",
            )
    for item in network.list_rulesets(api):
        tags = naming.tags_of(item["name"])
        if tags and item["region"]["name"] == region:
            created = moment(item.get("created"))
            yield OwnedResource(ResourceKind.NETWORK, item["id"], region, tags, created_at=created)
    for item in network.list_keys(api):
        tags, place = network.key_tags(item["name"])
        if tags and place == region:
            yield OwnedResource(ResourceKind.KEY, item["name"], region, tags)


def remove(api: LambdaApi, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            reclaim(api, [resource.id])
        case ResourceKind.VOLUME:
            api.delete("/filesystems", resource.id, action="delete filesystem")
        case ResourceKind.NETWORK:
            network.delete_ruleset(api, resource.id)
        case ResourceKind.KEY:
            network.delete_key(api, resource.id)
        case ResourceKind.ADDRESS:
            raise NotSupported(_("Lambda has no addresses of their own."))


def _listed(api: LambdaApi) -> list[Machine]:
    return [_machine(item) for item in api.read("/instances", action=LIST, kind=list)]


def _one(api: LambdaApi, instance_id: str) -> Machine | None:
    try:
        path = f"/instances/{quote(instance_id, safe='')}"
        return _machine(api.read(path, action="get instance", kind=dict))
    except NotFound:
        return None


def _machine(item: Any) -> Machine:
    raw = get(item, "status", str, action=LIST)
    state, healthy = STATES.get(raw, (MachineState.UNKNOWN, None))
    name = get(item, "name", str, action=LIST, default="")
    return Machine(
        id=get(item, "id", str, action=LIST),
        region=get(item, "region.name", str, action=LIST),
        state=state,
        raw_state=raw,
        instance_type=get(item, "instance_type.name", str, action=LIST, default=""),
        public_ip=get(item, "ip", str, action=LIST, default=""),
        private_ip=get(item, "private_ip", str, action=LIST, default=""),
        tags={**naming.tags_of(name), **_our_tags(get(item, "tags", list, action=LIST, default=[]))},
        status_ok=healthy,
        reason=_("Lambda preempted it.") if raw == "preempted" else "",
    )


def _our_tags(entries: list[Any]) -> dict[str, str]:
    pairs = [
        (get(entry, "key", str, action=LIST), get(entry, "value", str, action=LIST)) for entry in entries
    ]
    return {key: value for key, value in pairs if key.startswith(TAG_PREFIX)}


TAG_PREFIX = TAG_TOKEN.partition(":")[0] + ":"
