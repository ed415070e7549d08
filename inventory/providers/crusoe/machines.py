"""Launching, reading and ending VMs, and finding everything that is ours."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
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
from inventory.providers.crusoe import network
from inventory.providers.crusoe.api import CrusoeApi, check
from inventory.providers.crusoe.catalog import FABRICS, free_by_type, read_regions, region_of
from inventory.providers.errors import NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment

# InstanceV1.state is an open string, with or without STATE_ in front. These are named by the
# document (RUNNING), by Crusoe's own Kubernetes autoscaler (fromCrusoeStatus in
# cluster-autoscaler/cloudprovider/crusoecloud/crusoe_node_group.go), by its Terraform
# provider (STOPPED, internal/vm/util.go) and by dstack (DELETING, DELETED).
STATES: dict[str, MachineState] = {
    "DEFINING": MachineState.PENDING,
    "PAUSED": MachineState.PENDING,  # "creating" to the autoscaler
    "BLOCKED": MachineState.PENDING,  # "creation blocked on resources"
    "RUNNING": MachineState.RUNNING,
    "SHUTDOWN": MachineState.STOPPING,
    "SHUTOFF": MachineState.STOPPING,
    "STOPPED": MachineState.STOPPING,
    "CRASHED": MachineState.STOPPING,
    "PMSUSPENDED": MachineState.STOPPING,
    "DELETING": MachineState.STOPPING,
    "DELETED": MachineState.TERMINATED,
    "UNSPECIFIED": MachineState.UNKNOWN,
}
ENDING = {"DELETING", "DELETED"}
LIST, LAUNCH, OPERATIONS, DISKS = "list VMs", "create VM", "list VM operations", "list disks"
BATCH = 50  # ids to one question
# Ids that the listing lacks: their operations tell what became of them.
ASKED_ALONE = 15
LONGEST_NAME = 63
LARGEST_SCRIPT = 64_000  # bytes
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
CUSTOM = "custom:"
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def launch(api: CrusoeApi, group: LaunchGroup) -> list[LaunchedInstance]:
    """Launch one VM in one call that is never repeated here, and look once whether it failed at once."""
    body = launch_parameters(api, group)
    operation = api.operate("POST", _instances(api), action=LAUNCH, json=body)
    made = get(operation, "metadata.id", str, action=LAUNCH)
    _look_once(api, get(operation, "operation_id", str, action=LAUNCH))
    return [LaunchedInstance(id=made, zone=body["location"])]


def _look_once(api: CrusoeApi, operation: str) -> None:
    """Raise the error of an operation that has failed; what cannot be read is looked at later."""
    try:
        found = api.http.write(
            "GET", _instances(api, "operations", quote(operation, safe="")), action="get VM operation"
        )
    except ProviderError:
        return
    if isinstance(found, Mapping) and found.get("state") == "FAILED":
        check(found, action=LAUNCH)


def launch_parameters(api: CrusoeApi, group: LaunchGroup) -> dict[str, Any]:
    """Return the body of a launch. Raises :class:`NotSupported` for what Crusoe has not."""
    if group.count != 1:
        raise NotSupported(_("Crusoe launches one VM per call, as we call it."))
    if group.purchase_option == PurchaseOption.SPOT:
        raise NotSupported(_("Crusoe’s API launches no spot VMs."))
    if group.user_data:
        raise NotSupported(_("Crusoe’s VMs take no user data."))
    keys = [key.strip() for key in group.ssh_public_keys if key.strip()]
    if not keys:
        raise ProviderError(_("Crusoe launches nothing without an SSH key: add one to the lease."))
    location = group.zone or _location(api, group)
    tags = {**group.tags, TAG_TOKEN: group.client_token}
    parameters: dict[str, Any] = {
        "name": naming.name_for(tags, limit=LONGEST_NAME),
        "type": group.instance_type,
        "location": location,
        "ssh_public_key": keys[0],
        **_image(group.image or api.options.by_region("image", group.region)),
        # Without it a reservation with room would be used, and with one of ours another could be.
        "reservation_specification": (
            {"id": group.reservation_id} if group.reservation_id else {"selection_strategy": "on_demand"}
        ),
        # Crusoe would install software of its own on a tenant's machine.
        "install_crusoe_watch_agent": False,
    }
    if len(keys) > 1:
        parameters["startup_script"] = key_script(
            group.login_user or api.options.text("user", "ubuntu"), keys[1:]
        )
    if group.firewall_id:
        parameters["network_interfaces"] = [
            _interface(group.firewall_id, network.subnet_in(api, group.firewall_id, location))
        ]
    if any(mark in group.instance_type for mark in FABRICS) and (
        partition := network.partition_in(api, group.tags, location)
    ):
        parameters["host_channel_adapters"] = [{"transport_partition_id": partition}]
    return parameters


def _location(api: CrusoeApi, group: LaunchGroup) -> str:
    """Return the location of a region with most room for the type; the first where none has any."""
    known = read_regions(api)
    if group.region not in known:
        raise NotFound(_("Crusoe has no region “%(region)s”.") % {"region": group.region})
    free = free_by_type(api, group.region, fresh=True).get(group.instance_type, {})
    return max((zone.code for zone in known[group.region].zones), key=lambda code: free.get(code, 0))


def _image(image: str) -> dict[str, str]:
    if not image:
        raise ProviderError(
            _("Crusoe launches nothing without an image: choose software, or set “image” on the account.")
        )
    own = image.removeprefix(CUSTOM)
    return {"custom_image": own} if own != image or UUID.fullmatch(image) else {"image": image}


def _interface(network_id: str, subnet: str) -> dict[str, Any]:
    """Return a network interface. The document wants every field; Crusoe's own client sends empty ones."""
    empty = {"id": "", "name": "", "interface_type": "", "mac_address": "", "external_dns_name": ""}
    ips = [{"private_ipv4": {"address": ""}, "public_ipv4": {"id": "", "address": "", "type": "dynamic"}}]
    return {**empty, "network": network_id, "subnet": subnet, "ips": ips}


def key_script(user: str, keys: Sequence[str]) -> str:
    """Return a script that lets more keys in than the one that a launch takes.

    It runs as root whenever the VM boots; it is bash, ASCII and smaller than 64 kB
    (https://docs.crusoecloud.com/compute/virtual-machines/managing-lifecycle-scripts), and so
    without the keys' comments.
    """
    if not USER.fullmatch(user):
        raise ProviderError(_("“%(user)s” is no login user: set “user” on the account.") % {"user": user})
    lines = " ".join(shlex.quote(" ".join(key.split()[:2])) for key in keys)
    script = (
        "#!/bin/bash\n"
        f"home=$(getent passwd {user} | cut -d: -f6)\n"
        f'install -d -m 700 -o {user} -g {user} "$home/.ssh"\n'
        'file="$home/.ssh/authorized_keys"\n'
        'touch "$file"\n'
        f"for key in {lines}; do\n"
        '  grep -qxF "$key" "$file" || echo "$key" >> "$file"\n'
        "done\n"
        f'chown {user}:{user} "$file" && chmod 600 "$file"\n'
    )
    if not script.isascii() or len(script) >= LARGEST_SCRIPT:
        raise ProviderError(_("The lease has more SSH keys than fit into Crusoe’s startup script of 64 kB."))
    return script


def find(api: CrusoeApi, region: str, tag: str, value: str) -> list[Machine]:
    return [
        machine
        for machine in _listed(api)
        if machine.region == region and naming.matches(machine.tags, tag, value)
    ]


def describe(api: CrusoeApi, region: str, ids: Sequence[str]) -> list[Machine]:
    """Return the VMs; of one that is not listed the operations tell whether it comes or has failed."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Machine] = {}
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        listed = _listed(api, ids=",".join(batch))
        found |= {machine.id: machine for machine in listed if machine.id in batch}
    unlisted = [id_ for id_ in wanted if id_ not in found]
    for missing in unlisted[:ASKED_ALONE]:
        if machine := _by_operations(api, region, missing):
            found[missing] = machine
    # Beyond what the limit allows to ask, nobody has said that they ended.
    for missing in unlisted[ASKED_ALONE:]:
        found[missing] = Machine(missing, region, MachineState.UNKNOWN, reason=_("Crusoe does not list it."))
    return [found[id_] for id_ in wanted if id_ in found]


def _by_operations(api: CrusoeApi, region: str, vm: str) -> Machine | None:
    operations = api.items(_instances(api, "operations"), action=OPERATIONS, params={"resource_id": vm})
    states = [get(operation, "state", str, action=OPERATIONS) for operation in operations]
    if "IN_PROGRESS" in states:  # the creation, or what came after it
        state = MachineState.STOPPING if "SUCCEEDED" in states else MachineState.PENDING
        return Machine(id=vm, region=region, state=state, raw_state="IN_PROGRESS")
    if set(states) != {"FAILED"}:  # nobody knows it, or it was there and is gone
        return None
    reason = get(operations[0], "result.message", str, action=OPERATIONS, default="")
    return Machine(
        id=vm,
        region=region,
        state=MachineState.TERMINATED,
        raw_state="FAILED",
        reason=reason[:300] or _("Crusoe could not create it."),
    )


def reclaim(api: CrusoeApi, ids: Sequence[str]) -> None:
    """Delete the VMs that are there and not being deleted; their boot disks go with them."""
    for start in range(0, len(ids), BATCH):
        for machine in _listed(api, ids=",".join(ids[start : start + BATCH])):
            if machine.id not in ids or _word(machine.raw_state) in ENDING:
                continue
            try:
                api.operate("DELETE", _instances(api, quote(machine.id, safe="")), action="delete VM")
            except NotFound:
                pass


def list_owned(api: CrusoeApi, region: str) -> Iterator[OwnedResource]:
    """Yield VMs, disks and networks that carry a name of ours."""
    for machine in _listed(api):
        if machine.region == region and machine.tags and machine.state != MachineState.TERMINATED:
            yield OwnedResource(
                ResourceKind.INSTANCE,
                machine.id,
                region,
                machine.tags,
                created_at=machine.launched_at,
                state=machine.raw_state,
            )
    path = api.path("storage", "disks")
    for item in api.items(path, action=DISKS, params={"exclude_os": "true"}):
        tags = naming.tags_of(get(item, "name", str, action=DISKS))
        if tags and region_of(get(item, "location", str, action=DISKS)) == region:
            created = moment(item.get("created_at"))
            disk = get(item, "id", str, action=DISKS)
            yield OwnedResource(ResourceKind.VOLUME, disk, region, tags, created_at=created)
    for item in network.list_networks(api):
        tags, place = network.named(item["name"])
        if tags and place == region:
            yield OwnedResource(ResourceKind.NETWORK, item["id"], region, tags)


def remove(api: CrusoeApi, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            reclaim(api, [resource.id])
        case ResourceKind.VOLUME:
            path = api.path("storage", "disks")
            if any(
                get(item, "id", str, action=DISKS) == resource.id for item in api.items(path, action=DISKS)
            ):
                disk = api.path("storage", "disks", quote(resource.id, safe=""))
                api.operate("DELETE", disk, action="delete disk")
        case ResourceKind.NETWORK:
            network.remove(api, resource.id)
        case ResourceKind.ADDRESS | ResourceKind.KEY:
            raise NotSupported(_("Crusoe has no addresses or keys of their own that we make."))


def _instances(api: CrusoeApi, *parts: str) -> str:
    return api.path("compute", "vms", "instances", *parts)


def _listed(api: CrusoeApi, **filters: str) -> list[Machine]:
    return [_machine(item) for item in api.pages(_instances(api), action=LIST, params=filters)]


def _word(raw: str) -> str:
    return raw.upper().removeprefix("STATE_")


def _machine(item: Any) -> Machine:
    raw = get(item, "state", str, action=LIST)
    location = get(item, "location", str, action=LIST)
    word = _word(raw)
    interface: Any = next(iter(get(item, "network_interfaces", list, action=LIST, default=[])), {})
    addresses: Any = next(iter(get(interface, "ips", list, action=LIST, default=[])), {})
    return Machine(
        id=get(item, "id", str, action=LIST),
        region=region_of(location),
        state=STATES.get(word, MachineState.UNKNOWN),
        raw_state=raw,
        zone=location,
        instance_type=get(item, "type", str, action=LIST, default=""),
        public_ip=_address(addresses, "public_ipv4"),
        private_ip=_address(addresses, "private_ipv4"),
        tags=naming.tags_of(get(item, "name", str, action=LIST)),
        launched_at=moment(item.get("created_at")),
        reason=_("It crashed.") if word == "CRASHED" else "",
    )


def _address(addresses: Any, kind: str) -> str:
    found = get(addresses, f"{kind}.address", str, action=LIST, default="")
    try:
        return str(ipaddress.ip_address(found)) if found else ""
    except ValueError:
        return ""
