"""Together's GPU clusters as machines: each node of eight GPUs is one.

A launch makes one cluster with all its nodes, and the cluster ends as a whole. A machine's
id is the cluster's with the number of the node, because nodes have no ids yet when the
cluster is asked for: ``c-1234/0``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import (
    TAG_TOKEN,
    Catalog,
    InstanceTypeInfo,
    LaunchedInstance,
    LaunchGroup,
    Machine,
    MachineState,
    OfferInfo,
    OwnedResource,
    PurchaseOption,
    RegionInfo,
    ResourceKind,
)
from inventory.providers.errors import BadAnswer, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.together.api import TogetherApi

# GPUClusterInfo.status. Whether a node works is known of the cluster as a whole only: Together
# runs its acceptance tests before a cluster is ready.
STATES: dict[str, tuple[MachineState, bool | None]] = {
    "WaitingForControlPlaneNodes": (MachineState.PENDING, None),
    "WaitingForDataPlaneNodes": (MachineState.PENDING, None),
    "WaitingForSubnet": (MachineState.PENDING, None),
    "WaitingForSharedVolume": (MachineState.PENDING, None),
    "InstallingDrivers": (MachineState.PENDING, None),
    "RunningAcceptanceTests": (MachineState.PENDING, None),
    "Ready": (MachineState.RUNNING, True),
    "Degraded": (MachineState.RUNNING, False),
    # When credits run out, clusters are paused before they are taken away
    # (https://docs.together.ai/docs/gpu-clusters-billing).
    "Paused": (MachineState.STOPPING, None),
    "OnDemandComputePaused": (MachineState.STOPPING, None),
    "Deleting": (MachineState.STOPPING, None),
}
MOST_GPUS = 1_000_000  # of one cluster: more is a mistake
GPUS_PER_NODE = 8  # num_gpus "must be multiple of 8"
REGIONS, LIST, CREATE = "list regions", "list GPU clusters", "create GPU cluster"
VOLUMES = "list shared volumes"
# RFC 1918, RFC 6598 and RFC 4193
INSIDE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]
# Clusters that the list lacks are asked for one by one.
ASKED_ALONE = 50
LONGEST_NAME = 50  # of a cluster: nothing says how long one may be


def read_regions(api: TogetherApi) -> list[dict[str, Any]]:
    """Return Together's regions; each has a name."""
    items: list[dict[str, Any]] = get(
        api.http.read("/compute/regions", action=REGIONS), "regions", list, action=REGIONS
    )
    for item in items:
        get(item, "name", str, action=REGIONS)
    return items


def read_catalog(api: TogetherApi, region: str) -> Catalog:
    """Return what a region supports, as nodes of eight GPUs, without prices and without stock."""
    item = _region(read_regions(api), region)
    names = get(item, "supported_instance_types", list, action=REGIONS)
    if not all(isinstance(name, str) and name for name in names):
        raise BadAnswer(_("%(action)s: an instance type has no name.") % {"action": REGIONS})
    types = [
        InstanceTypeInfo(
            name=name,
            vcpus=0,
            memory_mib=0,
            gpu_vendor="nvidia",
            gpu_name=name,
            gpu_count=GPUS_PER_NODE,
        )
        for name in names
    ]
    offers = [OfferInfo(instance_type=name, region=region) for name in names]
    return Catalog(region=RegionInfo(code=region), instance_types=tuple(types), offers=tuple(offers))


def _region(items: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise NotFound(_("Together has no region “%(region)s”.") % {"region": name})


def launch(api: TogetherApi, group: LaunchGroup) -> list[LaunchedInstance]:
    """Make one cluster of the group's nodes in one call that is never repeated here."""
    parameters = launch_parameters(api, group)
    answer = api.http.write("POST", "/compute/clusters", action=CREATE, json=parameters)
    cluster = get(answer, "cluster_id", str, action=CREATE)
    gpus = get(answer, "num_gpus", int, action=CREATE)
    if not cluster or gpus != parameters["num_gpus"]:
        raise BadAnswer(
            _("%(action)s: %(got)s GPUs instead of %(wanted)s in the answer.")
            % {"action": CREATE, "got": gpus, "wanted": parameters["num_gpus"]}
        )
    raw = get(answer, "status", str, action=CREATE, default="")
    return [LaunchedInstance(id=f"{cluster}/{index}", raw_state=raw) for index in range(group.count)]


def launch_parameters(api: TogetherApi, group: LaunchGroup) -> dict[str, Any]:
    """Return the body of a launch; reads the region's driver versions where the image is not named.

    A reservation is a capacity pool. Raises :class:`NotSupported` for what Together has not.
    """
    if group.purchase_option == PurchaseOption.SPOT:
        raise NotSupported(_("Together has no spot clusters."))
    tags = {**group.tags, TAG_TOKEN: group.client_token}
    cuda, driver = _versions(api, group)
    parameters: dict[str, Any] = {
        "cluster_name": naming.name_for(tags, limit=LONGEST_NAME),
        "cluster_type": api.cluster_type(),
        "region": group.region,
        "gpu_type": group.instance_type,
        "num_gpus": GPUS_PER_NODE * group.count,
        "cuda_version": cuda,
        "nvidia_driver_version": driver,
        "billing_type": "ON_DEMAND",
    }
    if group.reservation_id:
        parameters["capacity_pool_id"] = group.reservation_id
    if parameters["cluster_type"] == "SLURM":
        memory = api.count("slurm_shm_size_gib")
        if not memory:
            raise ProviderError(_("A Slurm cluster needs the account setting “slurm_shm_size_gib”."))
        parameters["slurm_shm_size_gib"] = memory
        if image := api.text("slurm_image", group.region):
            parameters["slurm_image"] = image
    if size := api.count("shared_volume_tib"):
        parameters["shared_volume"] = {
            "volume_name": volume_name(tags, group.region),
            "size_tib": size,
            "region": group.region,
        }
    return parameters


def _versions(api: TogetherApi, group: LaunchGroup) -> tuple[str, str]:
    """Return CUDA and driver version of an image ``12.6/560``, or the newest pair of the region."""
    if image := group.image or api.text("image", group.region):
        cuda, slash, driver = image.partition("/")
        if not (cuda and slash and driver):
            raise ProviderError(
                _("“%(image)s” names no software of Together: write CUDA and driver version as 12.6/560.")
                % {"image": image}
            )
        return cuda, driver
    item = _region(read_regions(api), group.region)
    pairs = [
        (
            get(pair, "cuda_version", str, action=REGIONS),
            get(pair, "nvidia_driver_version", str, action=REGIONS),
        )
        for pair in get(item, "driver_versions", list, action=REGIONS)
    ]
    if not pairs:
        raise ProviderError(
            _("Together lists no driver versions for %(region)s: set “image” on the account.")
            % {"region": group.region}
        )
    return max(pairs, key=lambda pair: (_numbers(pair[0]), _numbers(pair[1])))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def find(api: TogetherApi, region: str, tag: str, value: str) -> list[Machine]:
    return [
        machine
        for cluster in list_clusters(api)
        for machine in _machines(cluster)
        if machine.region == region and naming.matches(machine.tags, tag, value)
    ]


def describe(api: TogetherApi, ids: Sequence[str]) -> list[Machine]:
    """Return the nodes; a cluster that the list lacks is asked for by its id.

    Those beyond what the limit allows to ask are *unknown*: nobody has said that they ended.
    """
    if not ids:
        return []
    clusters = {cluster["cluster_id"]: cluster for cluster in list_clusters(api)}
    wanted = {_cluster_of(id_) for id_ in ids}
    unlisted = sorted(wanted - clusters.keys())
    for missing in unlisted[:ASKED_ALONE]:
        if cluster := _cluster(api, missing):
            clusters[missing] = cluster
    found = {
        machine.id: machine
        for name in sorted(wanted & clusters.keys())
        for machine in _machines(clusters[name])
    }
    unasked = set(unlisted[ASKED_ALONE:])
    found |= {
        id_: Machine(id_, "", MachineState.UNKNOWN, reason=_("Together does not list it."))
        for id_ in ids
        if _cluster_of(id_) in unasked
    }
    return [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]


def reclaim(api: TogetherApi, ids: Sequence[str]) -> None:
    """Delete the cluster of these nodes, which are all that it has."""
    for cluster in dict.fromkeys(_cluster_of(id_) for id_ in ids):
        _delete(api, f"/compute/clusters/{quote(cluster, safe='')}", action="delete GPU cluster")


def _delete(api: TogetherApi, path: str, *, action: str) -> None:
    try:
        api.http.write("DELETE", path, action=action)
    except NotFound:
        pass


def list_owned(api: TogetherApi, region: str) -> Iterator[OwnedResource]:
    """Yield the nodes of our clusters, and our volumes, which outlive their cluster and cost money."""
    for cluster in list_clusters(api):
        for machine in _machines(cluster):
            if machine.region == region and machine.tags:
                yield OwnedResource(
                    ResourceKind.INSTANCE,
                    machine.id,
                    region,
                    machine.tags,
                    created_at=machine.launched_at,
                    state=machine.raw_state,
                )
    document = api.http.read("/compute/clusters/storage/volumes", action=VOLUMES)
    for item in get(document, "volumes", list, action=VOLUMES):
        if tags := volume_tags(get(item, "volume_name", str, action=VOLUMES), region):
            yield OwnedResource(
                ResourceKind.VOLUME,
                get(item, "volume_id", str, action=VOLUMES),
                region,
                tags,
                state=get(item, "status", str, action=VOLUMES, default=""),
            )


def remove(api: TogetherApi, resource: OwnedResource) -> None:
    """Remove a cluster by one of its nodes, or a volume; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            reclaim(api, [resource.id])
        case ResourceKind.VOLUME:
            path = f"/compute/clusters/storage/volumes/{quote(resource.id, safe='')}"
            _delete(api, path, action="delete shared volume")
        case _:
            raise NotSupported(_("Together has clusters and volumes only."))


def volume_name(tags: Mapping[str, str], region: str) -> str:
    """Return the name of a cluster's volume: a volume does not say its region, so its name does."""
    return f"{naming.name_for(tags, limit=32)}-{region}"


def volume_tags(name: str, region: str) -> dict[str, str]:
    """Return the tags of a volume of ours in this region; nothing for any other."""
    return naming.tags_of(name.removesuffix(f"-{region}")) if name.endswith(f"-{region}") else {}


def _cluster_of(id_: str) -> str:
    return id_.rpartition("/")[0] or id_


def list_clusters(api: TogetherApi) -> list[dict[str, Any]]:
    """Return every cluster of the project, ours or not; each has an id."""
    document = api.http.read("/compute/clusters", action=LIST)
    items: list[dict[str, Any]] = get(document, "clusters", list, action=LIST)
    for item in items:
        get(item, "cluster_id", str, action=LIST)
    return items


def _cluster(api: TogetherApi, cluster_id: str) -> dict[str, Any] | None:
    action = "get GPU cluster"
    try:
        found = api.http.read(f"/compute/clusters/{quote(cluster_id, safe='')}", action=action)
    except NotFound:
        return None
    if get(found, "cluster_id", str, action=action) != cluster_id:
        raise BadAnswer(_("%(action)s: another cluster came.") % {"action": action})
    return dict(found)


def _machines(cluster: Mapping[str, Any]) -> Iterator[Machine]:
    """Yield a cluster's nodes, those included that Together has not found yet."""
    raw = get(cluster, "status", str, action=LIST)
    state, healthy = STATES.get(raw, (MachineState.UNKNOWN, None))
    gpus = get(cluster, "num_gpus", int, action=LIST)
    if not 0 <= gpus <= MOST_GPUS:
        raise BadAnswer(_("%(action)s: a cluster has %(n)s GPUs.") % {"action": LIST, "n": gpus})
    nodes = sorted(
        get(cluster, "gpu_worker_nodes", list, action=LIST, default=[]),
        key=lambda node: (
            get(node, "node_name", str, action=LIST, default=""),
            get(node, "node_id", str, action=LIST),
        ),
    )
    tags = naming.tags_of(get(cluster, "cluster_name", str, action=LIST))
    for index in range(max(gpus // GPUS_PER_NODE, len(nodes))):
        there = index < len(nodes)
        public, private = _addresses(nodes[index]) if there else ("", "")
        lost = state == MachineState.RUNNING and not there
        yield Machine(
            id=f"{cluster['cluster_id']}/{index}",
            region=get(cluster, "region", str, action=LIST),
            state=MachineState.UNKNOWN if lost else state,
            raw_state=raw,
            instance_type=get(cluster, "gpu_type", str, action=LIST),
            public_ip=public,
            private_ip=private,
            tags=tags,
            launched_at=moment(cluster.get("created_at")),
            status_ok=False if lost else healthy,
            reason=_("Together lists no node for it.") if lost else "",
        )


def _addresses(node: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first public and the first private address among a node's networks and its host name."""
    public, private = "", ""
    networks = get(node, "networks", list, action=LIST, default=[])
    for text in [*networks, node.get("host_name")]:
        try:
            address = ipaddress.ip_interface(str(text)).ip
        except ValueError:
            continue
        if any(address in network for network in INSIDE if network.version == address.version):
            private = private or str(address)
        else:
            public = public or str(address)
    return public, private
