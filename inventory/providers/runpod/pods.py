"""Launching, reading and ending pods, and finding everything that is ours."""

from __future__ import annotations

import ipaddress
import re
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
from inventory.providers.errors import BadAnswer, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.runpod.api import CREATE, RunPodApi
from inventory.providers.runpod.catalog import parse_type

# PodStatus of the document. The second is RunPod's own opinion: RUNNING is "container is healthy".
STATES: dict[str, tuple[MachineState, bool | None]] = {
    "PROVISIONING": (MachineState.PENDING, None),
    "STARTING": (MachineState.PENDING, None),
    "RUNNING": (MachineState.RUNNING, True),
    "ERROR": (MachineState.RUNNING, False),  # "unrecoverable", and there until it is deleted
    "EXITED": (MachineState.STOPPING, None),
    "TERMINATED": (MachineState.TERMINATED, None),
}
LIST, VOLUMES = "list pods", "list network volumes"
PODS, NETWORK_VOLUMES = "/v2/pods", "/v2/network-volumes"
SSH = 22
# Ids that the listing lacks are asked for one by one, as far as the limit allows.
ASKED_ALONE = 15
CUDA = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
LEAST_VOLUME, LARGEST_DISK = 10, 100_000  # GB


def launch(api: RunPodApi, group: LaunchGroup) -> list[LaunchedInstance]:
    """Launch one pod in one call that is never repeated here."""
    pod = api.http.write("POST", PODS, action=CREATE, json=launch_parameters(api, group))
    return [
        LaunchedInstance(
            id=get(pod, "id", str, action=CREATE),
            zone=get(pod, "dataCenterId", str, action=CREATE, default=""),
            raw_state=get(pod, "status", str, action=CREATE, default=""),
        )
    ]


def launch_parameters(api: RunPodApi, group: LaunchGroup) -> dict[str, Any]:
    """Return the body of a launch. Raises :class:`NotSupported` for what RunPod has not."""
    if group.count != 1:
        raise NotSupported(_("RunPod launches one pod per call."))
    if group.reservation_id or group.purchase_option != PurchaseOption.ON_DEMAND:
        raise NotSupported(_("RunPod’s API launches on demand only: it knows no reservations and no spot."))
    if group.user_data:
        raise NotSupported(_("RunPod’s containers take no user data."))
    image = group.image or api.options.by_region("image", group.region)
    if not image:
        raise ProviderError(
            _("RunPod launches nothing without an image: choose software, or set “image” on the account.")
        )
    keys = [key.strip() for key in group.ssh_public_keys if key.strip()]
    if not keys:
        raise ProviderError(_("Nobody could enter a pod without an SSH key: add one to the lease."))
    gpu, count = parse_type(group.instance_type)
    tags = {**group.tags, TAG_TOKEN: group.client_token}
    parameters: dict[str, Any] = {
        "name": f"{naming.name_for(tags)}.{group.region}",
        "cloud": api.cloud,
        "dataCenterIds": [group.region],
        "gpu": {"id": gpu, "count": count, **_cuda(api)},
        "image": image,
        # Images start their sshd with the keys in PUBLIC_KEY. startSsh would put the account's own
        # there, "unless the request already sets one".
        "env": {"PUBLIC_KEY": "\n".join(keys)},
        "ports": [f"{SSH}/tcp"],
        "startSsh": True,
        **_disks(api),
    }
    if registry := api.options.text("registry"):
        parameters["registry"] = registry
    return parameters


def _cuda(api: RunPodApi) -> dict[str, str]:
    version = api.options.text("min_cuda_version")
    if version and not CUDA.fullmatch(version):
        raise ProviderError(_("The account setting “min_cuda_version” must be a version such as 12.8."))
    return {"minCudaVersion": version} if version else {}


def _disks(api: RunPodApi) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if disk := api.options.number("disk_gb", least=1, most=LARGEST_DISK):
        found["disk"] = disk
    if volume := api.options.number("volume_gb", least=LEAST_VOLUME, most=LARGEST_DISK):
        path = api.options.text("volume_path", "/workspace")
        found["mounts"] = {"persistent": {"size": volume, "path": path}}
    return found


def find(api: RunPodApi, tag: str, value: str) -> list[Machine]:
    """Return the pods with a tag in any data center: RunPod calls the one that we ask for *preferred*."""
    return [machine for machine in _listed(api) if naming.matches(machine.tags, tag, value)]


def describe(api: RunPodApi, ids: Sequence[str]) -> list[Machine]:
    """Return the machines; one that the listing lacks is asked for by its id.

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
        found[missing] = Machine(missing, "", MachineState.UNKNOWN, reason=_("RunPod does not list it."))
    return [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]


def reclaim(api: RunPodApi, ids: Sequence[str]) -> None:
    """Terminate the pods, for good: the container's and the host's disk go with them."""
    for one in ids:
        api.delete(f"{PODS}/{quote(one, safe='')}", action="terminate pod")


def list_owned(api: RunPodApi, region: str) -> Iterator[OwnedResource]:
    """Yield pods and network volumes that carry a name of ours."""
    for item in api.read_list(PODS, "pods", action=LIST):
        machine = _machine(item)
        if machine.region == region and machine.tags and machine.state != MachineState.TERMINATED:
            yield OwnedResource(
                ResourceKind.INSTANCE,
                machine.id,
                region,
                machine.tags,
                created_at=machine.launched_at,
                state=machine.raw_state,
            )
    for item in api.read_list(NETWORK_VOLUMES, "networkVolumes", action=VOLUMES):
        tags, _place = _named(get(item, "name", str, action=VOLUMES))
        if tags and get(item, "dataCenter", str, action=VOLUMES) == region:
            yield OwnedResource(ResourceKind.VOLUME, get(item, "id", str, action=VOLUMES), region, tags)


def remove(api: RunPodApi, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            reclaim(api, [resource.id])
        case ResourceKind.VOLUME:
            api.delete(f"{NETWORK_VOLUMES}/{quote(resource.id, safe='')}", action="delete network volume")
        case ResourceKind.ADDRESS | ResourceKind.NETWORK | ResourceKind.KEY:
            raise NotSupported(_("RunPod has no addresses, networks or keys of their own."))


def _listed(api: RunPodApi) -> list[Machine]:
    return [_machine(item) for item in api.read_list(PODS, "pods", action=LIST)]


def _one(api: RunPodApi, pod: str) -> Machine | None:
    try:
        return _machine(api.http.read(f"{PODS}/{quote(pod, safe='')}", action="get pod"))
    except NotFound:
        return None


def _named(name: str) -> tuple[dict[str, str], str]:
    """Return the tags and the region that a name of ours carries."""
    ours, _dot, region = name.partition(".")
    tags = naming.tags_of(ours)
    return tags, region if tags else ""


def _machine(item: Any) -> Machine:
    """Return a pod. Its region is the one that we asked for: RunPod says where it is only later."""
    raw = get(item, "status", str, action=LIST)
    state, healthy = STATES.get(raw, (MachineState.UNKNOWN, None))
    tags, asked = _named(get(item, "name", str, action=LIST))
    center = get(item, "dataCenterId", str, action=LIST, default="")
    host, port = _ssh(item)
    return Machine(
        id=get(item, "id", str, action=LIST),
        region=asked or center,
        state=state,
        raw_state=raw,
        zone=center,
        instance_type=_shape(item),
        public_ip=host,
        ssh_port=port,
        tags=tags,
        launched_at=moment(item.get("createdAt")),
        # Nobody can use it before its SSH has a port.
        status_ok=healthy if host or not healthy else None,
    )


def _shape(item: Mapping[str, Any]) -> str:
    gpu = get(item, "gpu.id", str, action=LIST, default="")
    return f"{gpu} x{get(item, 'gpu.count', int, action=LIST, default=1)}" if gpu else ""


def _ssh(item: Mapping[str, Any]) -> tuple[str, int]:
    """Return address and port that lead straight to the pod's sshd; nothing before there are any."""
    doors = [
        (
            get(item, "ssh.direct.host", str, action=LIST, default=""),
            get(item, "ssh.direct.port", int, action=LIST, default=0),
        )
    ]
    doors += [
        (
            get(port, "ip", str, action=LIST, default=""),
            get(port, "public", int, action=LIST, default=0),
        )
        for port in get(item, "runtime.ports", list, action=LIST, default=[])
        if get(port, "private", int, action=LIST, default=0) == SSH
    ]
    for host, port in doors:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:  # a name, or nothing yet
            continue
        if not 0 < port < 65536:
            raise BadAnswer(_("%(action)s: a pod’s SSH port is out of range.") % {"action": LIST})
        return str(address), port
    return "", 0
