"""CoreWeave: node pools of a CKS cluster, through its Kubernetes API.

One launch is one NodePool of N nodes; CoreWeave boots all of them, and puts another in
the place of one that fails, by itself. A machine's id is ``POOL/INDEX``: the index-th of
the pool's nodes in the order in which they joined. There is no catalog, price, quota or
stock API; the types are those that CoreWeave documents, prices come from a rate card.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.providers import naming
from inventory.providers.base import (
    TAG_TOKEN,
    AccountIdentity,
    Capability,
    Catalog,
    CredentialField,
    InstanceTypeInfo,
    LaunchedInstance,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    Machine,
    MachineState,
    OfferInfo,
    OwnedResource,
    PurchaseOption,
    RegionInfo,
    ResourceKind,
    ZoneInfo,
)
from inventory.providers.coreweave.cluster import Cluster, labels_of
from inventory.providers.errors import BadAnswer, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment

# vCPUs, memory in KiB, GPUs, architecture, InfiniBand; as CoreWeave's provider of the Kubernetes
# cluster autoscaler lists them (kubernetes/autoscaler, coreweave_instance_types.go, 2026).
TYPES: Mapping[str, tuple[int, int, int, str, bool]] = {
    "b200-8x": (128, 2_112_277_172, 8, "x86_64", True),
    "b300-8x": (192, 4_225_760_944, 8, "x86_64", True),
    "gd-1xgh200": (72, 600_218_240, 1, "arm64", False),
    "gd-8xa100-i128": (128, 2_112_249_840, 8, "x86_64", False),
    "gd-8xh100ib-i128": (128, 2_112_109_804, 8, "x86_64", True),
    "gd-8xh200ib-i128": (128, 2_112_109_800, 8, "x86_64", True),
    "gd-8xl40-i128": (128, 1_055_335_508, 8, "x86_64", False),
    "gd-8xl40s-i128": (128, 1_055_337_468, 8, "x86_64", False),
    "rtxp6000-8x": (128, 1_055_335_468, 8, "x86_64", False),
}
# Nodes carry the UID of their pool; the label's key has changed before, so that any label with the
# UID as its value counts.
REGION_LABEL, ZONE_LABEL = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"


class CoreWeaveProvider:
    """One CKS cluster. Credential: ``kubeconfig``, the whole file of an API token.

    Settings, all optional: ``region`` and ``zone`` (default: what the cluster's nodes say),
    ``image`` (a node image for machines without a stack).
    """

    kind: ClassVar[str] = "coreweave"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GROUP_LAUNCH, Capability.ENDS_TOGETHER, Capability.IMAGES, Capability.MACHINE_STATUS}
    )
    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("kubeconfig", gettext_lazy("Kubeconfig"), lines=True),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._cluster = Cluster(str(credentials.get("kubeconfig") or ""))
        self._settings = settings

    def test_connection(self) -> AccountIdentity:
        self._cluster.pools()
        return AccountIdentity(account=self._cluster.server)

    def regions(self) -> Sequence[RegionInfo]:
        region, zone = self._place()
        return [RegionInfo(code=region, zones=(ZoneInfo(zone),))]

    def offers(self, region: str) -> Catalog:
        """Return the documented types. The cluster is asked first, so that a poll proves the connection."""
        here, zone = self._place(ask=True)
        if region != here:
            raise NotFound(
                _("This cluster is in %(here)s, not in %(region)s.") % {"here": here, "region": region}
            )
        return Catalog(
            region=RegionInfo(code=region, zones=(ZoneInfo(zone),)),
            instance_types=tuple(
                InstanceTypeInfo(
                    name=name,
                    vcpus=vcpus,
                    memory_mib=memory // 1024,
                    gpu_vendor="nvidia",
                    gpu_name=name,
                    gpu_count=gpus,
                    network="InfiniBand" if infiniband else "",
                    architecture=architecture,
                )
                for name, (vcpus, memory, gpus, architecture, infiniband) in TYPES.items()
            ),
            offers=tuple(
                OfferInfo(
                    instance_type=name,
                    region=region,
                    zones=(zone,),
                    purchase_option=PurchaseOption.ON_DEMAND,
                )
                for name in TYPES
            ),
        )

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        raise NotSupported(_("A CoreWeave cluster has no firewall of its own for each lease."))

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        """Create one NodePool. Its name is our token's, so that a second call is refused, never a second pool."""
        tags = {**group.tags, TAG_TOKEN: group.client_token}
        name = naming.name_for(tags)
        labels = naming.to_labels(tags)
        spec: dict[str, Any] = {
            "instanceType": group.instance_type,
            "targetNodes": group.count,
            "autoscaling": False,
            "nodeLabels": labels,
        }
        if image := group.image or str(self._settings.get("image") or ""):
            spec["image"] = image
        manifest = {
            "apiVersion": "compute.coreweave.com/v1alpha1",
            "kind": "NodePool",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
        }
        try:
            self._cluster.create_pool(manifest)
        except ProviderError as error:
            if error.code != "AlreadyExists":
                raise
            # By name it is this very launch's: an earlier call made it.
            if labels.items() > labels_of(self._cluster.get_pool(name)).items():
                raise
        return [LaunchedInstance(id=f"{name}/{index}", zone=group.zone) for index in range(group.count)]

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        key, label = naming.label_selector(tag, value)
        pools = self._cluster.pools({key: label})
        return [machine for machines in self._machines(region, pools) for machine in machines]

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        wanted = set(ids)
        names = {one.partition("/")[0] for one in ids}
        pools = [pool for pool in self._cluster.pools() if _name(pool) in names]
        return [
            machine
            for machines in self._machines(region, pools)
            for machine in machines
            if machine.id in wanted
        ]

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        """Delete the pools of these machines; all of a pool's are named together (ENDS_TOGETHER).

        The list says which are still there: a 404 that is no Kubernetes answer proves nothing.
        """
        names = {one.partition("/")[0] for one in ids}
        for name in sorted(names & {_name(pool) for pool in self._cluster.pools()}):
            try:
                self._cluster.delete_pool(name)
            except NotFound:
                continue

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """A cluster has none of ours."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        pools = [pool for pool in self._cluster.pools() if naming.from_labels(labels_of(pool))]
        return [
            OwnedResource(
                kind=ResourceKind.INSTANCE,
                id=machine.id,
                region=region,
                tags=machine.tags,
                created_at=machine.launched_at,
                state=machine.raw_state,
            )
            for machines in self._machines(region, pools)
            for machine in machines
        ]

    def remove(self, resource: OwnedResource) -> None:
        self.reclaim(region=resource.region, ids=[resource.id])

    def _place(self, *, ask: bool = False) -> tuple[str, str]:
        """Return the cluster's region and zone, from the settings or from its nodes."""
        region = str(self._settings.get("region") or "")
        zone = str(self._settings.get("zone") or "")
        if region and not ask:
            return region, zone or region
        for node in self._cluster.nodes():
            labels = labels_of(node)
            region = region or labels.get(REGION_LABEL, "")
            zone = zone or labels.get(ZONE_LABEL, "")
            if region and zone:
                break
        if not region:
            raise ProviderError(
                _("The cluster has no nodes that name their region: set the account's option “region”.")
            )
        return region, zone or region

    def _machines(self, region: str, pools: Sequence[dict[str, Any]]) -> list[list[Machine]]:
        if not pools:
            return []
        members: dict[str, list[dict[str, Any]]] = defaultdict(list)
        uids = {get(pool, "metadata.uid", str, action="nodepools", default=""): _name(pool) for pool in pools}
        uids.pop("", None)
        by_token = {
            token: _name(pool)
            for pool in pools
            if (token := naming.from_labels(labels_of(pool)).get(TAG_TOKEN))
        }
        for node in self._cluster.nodes():
            labels = labels_of(node)
            owner = next((uids[value] for value in labels.values() if value in uids), None)
            owner = owner or by_token.get(naming.from_labels(labels).get(TAG_TOKEN, ""))
            if owner:
                members[owner].append(node)
        return [_members(region, pool, members[_name(pool)]) for pool in pools]


def _name(pool: Mapping[str, Any]) -> str:
    return get(pool, "metadata.name", str, action="nodepools")


def _members(region: str, pool: Mapping[str, Any], nodes: list[dict[str, Any]]) -> list[Machine]:
    """Return the pool's machines: its nodes in the order in which they joined, and those still to come."""
    name, count = _name(pool), get(pool, "spec.targetNodes", int, action="nodepools", default=0)
    if not 0 <= count <= 10_000:
        raise BadAnswer(_("nodepools: %(name)s has an impossible number of nodes.") % {"name": name})
    nodes.sort(
        key=lambda node: (
            str(get(node, "metadata.creationTimestamp", str, action="nodes", default="")),
            _name(node),
        )
    )
    ending = get(pool, "metadata.deletionTimestamp", str, action="nodepools", default="")
    reason = _complaint(pool)
    tags = naming.from_labels(labels_of(pool))
    machines = []
    for index in range(max(count, 1)):
        node = nodes[index] if index < len(nodes) else None
        ready = _ready(node) if node else False
        raw = "Deleting" if ending else "Ready" if ready else "NotReady" if node else "Booting"
        machines.append(
            Machine(
                id=f"{name}/{index}",
                region=region,
                state=STATES[raw],
                raw_state=raw,
                zone=labels_of(node).get(ZONE_LABEL, "") if node else "",
                instance_type=get(pool, "spec.instanceType", str, action="nodepools", default=""),
                public_ip=_address(node, "ExternalIP"),
                private_ip=_address(node, "InternalIP"),
                tags=tags,
                launched_at=moment(
                    get(pool, "metadata.creationTimestamp", str, action="nodepools", default="")
                ),
                status_ok=True if raw == "Ready" else None,
                reason=reason,
            )
        )
    return machines


# NodePool has conditions whose types are open strings; what counts is whether a node joined and is ready.
STATES: Mapping[str, MachineState] = {
    "Booting": MachineState.PENDING,
    "NotReady": MachineState.PENDING,
    "Ready": MachineState.RUNNING,
    "Deleting": MachineState.STOPPING,
}


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = get(node, "status.conditions", list, action="nodes", default=[])
    return any(
        isinstance(each, Mapping) and each.get("type") == "Ready" and each.get("status") == "True"
        for each in conditions
    )


def _address(node: Mapping[str, Any] | None, kind: str) -> str:
    addresses = get(node, "status.addresses", list, action="nodes", default=[]) if node else []
    found = (
        each.get("address") for each in addresses if isinstance(each, Mapping) and each.get("type") == kind
    )
    return str(next(found, "") or "")


def _complaint(pool: Mapping[str, Any]) -> str:
    """Return what the pool says is wrong, for staff: the messages of conditions that are not met."""
    conditions = get(pool, "status.conditions", list, action="nodepools", default=[])
    said = [
        str(each.get("message") or each.get("reason") or each.get("type") or "")
        for each in conditions
        if isinstance(each, Mapping) and each.get("status") == "False"
    ]
    return "; ".join(filter(None, said))[:300]
