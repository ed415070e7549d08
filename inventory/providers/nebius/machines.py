"""Launching, reading and ending Nebius's instances, and finding everything that is ours."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from grpc import StatusCode
from nebius.api.nebius.common.v1 import GetOperationRequest, ResourceMetadata
from nebius.api.nebius.compute.v1 import (
    AttachedDiskSpec,
    CreateInstanceRequest,
    DeleteDiskRequest,
    DeleteInstanceRequest,
    DiskServiceClient,
    DiskSpec,
    FollowsSpotPriceSpec,
    InstanceGpuClusterSpec,
    InstanceServiceClient,
    InstanceSpec,
    InstanceStatus,
    IPAddress,
    ListDisksRequest,
    ListInstancesRequest,
    ManagedDisk,
    NetworkInterfaceSpec,
    PreemptibleSpec,
    PublicIPAddress,
    ReservationPolicy,
    ResourcesSpec,
    SecurityGroup,
    SourceImageFamily,
)

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
from inventory.providers.nebius import network
from inventory.providers.nebius.errors import explain
from inventory.providers.nebius.session import Session, understood

LAUNCH, LIST, DELETE, DISKS = "create instance", "list instances", "delete instance", "list disks"
State = InstanceStatus.InstanceState
# InstanceState of nebius.compute.v1. What is in error or stopped costs its disk until it is deleted.
STATES: Mapping[Any, MachineState] = {
    State.UNSPECIFIED: MachineState.UNKNOWN,
    State.CREATING: MachineState.PENDING,
    State.UPDATING: MachineState.RUNNING,  # of its description: the machine goes on
    State.STARTING: MachineState.PENDING,
    State.RUNNING: MachineState.RUNNING,
    State.STOPPING: MachineState.STOPPING,
    State.STOPPED: MachineState.STOPPING,
    State.DELETING: MachineState.STOPPING,
    State.ERROR: MachineState.STOPPING,
}
IMAGE = "ubuntu24.04-cuda13.0"
IMAGE_ID = "computeimage-"
DISK_TYPES = ("NETWORK_SSD", "NETWORK_SSD_NON_REPLICATED", "NETWORK_SSD_IO_M3")
LONGEST_NAME = 63


def launch(session: Session, group: LaunchGroup) -> list[LaunchedInstance]:
    """Create one instance with its boot disk, in one call that is never repeated here.

    Its operation is looked at once: what failed at once is said, and left nowhere.
    """
    client = InstanceServiceClient(session.sdk())
    request = launch_parameters(session, group)
    made = session.once(client.create, request, action=LAUNCH, token=group.client_token)
    with understood(LAUNCH):
        instance_id, operation_id = str(made.resource_id), str(made.id)
    if not instance_id:
        raise BadAnswer(_("%(action)s: the answer names no instance.") % {"action": LAUNCH})
    if error := _failed(session, client, operation_id):
        _delete(session, instance_id)
        raise error
    return [LaunchedInstance(id=instance_id, raw_state=State.CREATING.name)]


def _failed(session: Session, client: InstanceServiceClient, operation_id: str) -> ProviderError | None:
    """Return why a launch failed, where that is known now; a look that fails says nothing."""
    action = "get operation"
    try:
        found = session.once(
            client.operation_service().get, GetOperationRequest(id=operation_id), action=action
        )
        with understood(action):
            status = found.status()
            if status is None or status.code == StatusCode.OK:
                return None
            error = explain(LAUNCH, status)
    except ProviderError:
        return None
    # A failure that is known is in no doubt: nothing of it goes on.
    error.doubtful = False
    return error


def launch_parameters(session: Session, group: LaunchGroup) -> CreateInstanceRequest:
    """Return the request of a launch. Raises :class:`NotSupported` for what Nebius has not."""
    if group.count != 1:
        raise NotSupported(_("Nebius creates one instance per call."))
    if group.purchase_option == PurchaseOption.RESERVED and not group.reservation_id:
        raise NotSupported(_("A launch on reserved capacity needs the id of its capacity block group."))
    platform, line, preset = group.instance_type.partition("_")
    if not (platform and line and preset):
        raise ProviderError(
            _("“%(type)s” is no type of Nebius: they read like “gpu-h100-sxm_8gpu-128vcpu-1600gb”.")
            % {"type": group.instance_type}
        )
    tags = {**group.tags, TAG_TOKEN: group.client_token}
    name, labels = naming.name_for(tags, limit=LONGEST_NAME), naming.to_labels(tags)
    interface = NetworkInterfaceSpec(
        subnet_id=network.subnet(session, group.region)[0],
        name="eth0",
        ip_address=IPAddress(),
        public_ip_address=PublicIPAddress(),
    )
    if group.firewall_id:
        interface.security_groups = [SecurityGroup(id=group.firewall_id)]
    spec = InstanceSpec(
        resources=ResourcesSpec(platform=platform, preset=preset),
        network_interfaces=[interface],
        boot_disk=AttachedDiskSpec(
            attach_mode=AttachedDiskSpec.AttachMode.READ_WRITE,
            # A managed disk is deleted with its instance.
            managed_disk=ManagedDisk(name=name, labels=labels, spec=disk(session, group)),
        ),
        reservation_policy=reservation(group),
    )
    if data := user_data(group.ssh_public_keys, group.user_data):
        spec.cloud_init_user_data = data
    if group.purchase_option == PurchaseOption.SPOT:
        spec.preemptible = PreemptibleSpec(on_preemption=PreemptibleSpec.PreemptionPolicy.STOP)
        spec.follows_spot_price = FollowsSpotPriceSpec()
    cluster = session.by_region("gpu_clusters").get(group.region)
    if cluster and preset.startswith("8gpu-"):
        spec.gpu_cluster = InstanceGpuClusterSpec(id=cluster)
    metadata = ResourceMetadata(parent_id=session.project(group.region), name=name, labels=labels)
    return CreateInstanceRequest(metadata=metadata, spec=spec)


def reservation(group: LaunchGroup) -> ReservationPolicy:
    """Return the policy that uses the lease's capacity block group alone, or none of any."""
    if group.reservation_id:
        return ReservationPolicy(
            policy=ReservationPolicy.Policy.STRICT, reservation_ids=[group.reservation_id]
        )
    return ReservationPolicy(policy=ReservationPolicy.Policy.FORBID)


def disk(session: Session, group: LaunchGroup) -> DiskSpec:
    kind = session.text("disk_type") or DISK_TYPES[0]
    if kind not in DISK_TYPES:
        raise ProviderError(
            _("The account setting “disk_type” must be one of %(kinds)s.") % {"kinds": ", ".join(DISK_TYPES)}
        )
    size: dict[str, Any] = {
        "size_gibibytes": session.whole("disk_gib", 200),
        "type": getattr(DiskSpec.DiskType, kind),
    }
    image = group.image or session.text("image", group.region) or IMAGE
    if image.startswith(IMAGE_ID):
        return DiskSpec(**size, source_image_id=image)
    return DiskSpec(**size, source_image_family=SourceImageFamily(image_family=image))


def find(session: Session, region: str, tag: str, value: str) -> list[Machine]:
    return [machine for machine in _listed(session, region) if naming.matches(machine.tags, tag, value)]


def describe(session: Session, region: str, ids: Sequence[str]) -> list[Machine]:
    """Return the machines; one that was deleted is not listed any more."""
    if not ids:
        return []
    found = {machine.id: machine for machine in _listed(session, region)}
    return [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]


def reclaim(session: Session, ids: Sequence[str]) -> None:
    """Delete each with its boot disk; what is gone already is no error."""
    for id_ in ids:
        _delete(session, id_)


def _delete(session: Session, instance_id: str) -> None:
    client = InstanceServiceClient(session.sdk())
    try:
        session.once(client.delete, DeleteInstanceRequest(id=instance_id), action=DELETE)
    except NotFound:
        pass


def list_owned(session: Session, region: str) -> Iterator[OwnedResource]:
    """Yield instances, disks and security groups with labels or a name of ours."""
    for machine in _listed(session, region):
        if machine.tags:
            yield OwnedResource(
                ResourceKind.INSTANCE,
                machine.id,
                region,
                machine.tags,
                created_at=machine.launched_at,
                state=machine.raw_state,
            )
    project = session.project(region)
    client = DiskServiceClient(session.sdk())
    for item in session.pages(client.list, ListDisksRequest, action=DISKS, parent_id=project):
        with understood(DISKS):
            found = _owned(ResourceKind.VOLUME, item, region, state=item.status.state.name)
        if found:
            yield found
    for item in network.list_groups(session, project):
        with understood(network.GROUPS):
            found = _owned(ResourceKind.NETWORK, item, region)
        if found:
            yield found


def _owned(kind: ResourceKind, item: Any, region: str, state: str = "") -> OwnedResource | None:
    tags = tags_of(item.metadata)
    if not tags:
        return None
    created = item.metadata.created_at
    return OwnedResource(kind, str(item.metadata.id), region, tags, created_at=created, state=state)


def remove(session: Session, resource: OwnedResource) -> None:
    """Remove one resource of any kind; one that is gone already is no error."""
    match resource.kind:
        case ResourceKind.INSTANCE:
            _delete(session, resource.id)
        case ResourceKind.VOLUME:
            client = DiskServiceClient(session.sdk())
            try:
                session.once(client.delete, DeleteDiskRequest(id=resource.id), action="delete disk")
            except NotFound:
                pass
        case ResourceKind.NETWORK:
            network.remove_group(session, resource.id)
        case ResourceKind.ADDRESS | ResourceKind.KEY:
            raise NotSupported(_("Sublet makes no such thing at Nebius."))


def tags_of(metadata: Any) -> dict[str, str]:
    """Return our tags of a resource: by its name, and in full by its labels."""
    return {**naming.tags_of(str(metadata.name)), **naming.from_labels(dict(metadata.labels))}


def _listed(session: Session, region: str) -> list[Machine]:
    client = InstanceServiceClient(session.sdk())
    project = session.project(region)
    items = session.pages(client.list, ListInstancesRequest, action=LIST, parent_id=project)
    found: dict[str, Machine] = {}
    for item in items:
        with understood(LIST):
            machine = _machine(item, region)
        found[machine.id] = machine
    return list(found.values())


def _machine(item: Any, region: str) -> Machine:
    state, metadata, resources = item.status.state, item.metadata, item.spec.resources
    public, private = "", ""
    for interface in item.status.network_interfaces:
        public = public or _address(interface.public_ip_address.address)
        private = private or _address(interface.ip_address.address)
    if not metadata.id:
        raise BadAnswer(_("%(action)s: an instance has no id.") % {"action": LIST})
    return Machine(
        id=str(metadata.id),
        region=region,
        state=STATES.get(state, MachineState.UNKNOWN),
        raw_state=state.name,
        instance_type=f"{resources.platform}_{resources.preset}" if resources.preset else "",
        public_ip=public,
        private_ip=private,
        tags=tags_of(metadata),
        launched_at=metadata.created_at,
        reason=_("Nebius says that it failed.") if state == State.ERROR else "",
    )


def _address(value: str) -> str:
    """Return an address without the length of its network; "" for none."""
    try:
        return str(ipaddress.ip_interface(value).ip) if value else ""
    except ValueError:
        return ""
