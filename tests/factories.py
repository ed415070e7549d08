"""Rows for tests: plain functions, each with sensible defaults and every argument by name.

They write models directly where no domain call exists for the purpose, and the
domain calls of the product where one does (a lease is held and confirmed, never inserted).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from inventory.models import (
    Commitment,
    Fabric,
    GpuModel,
    InstanceType,
    Node,
    Provider,
    ProviderAccount,
    Region,
    SoftwareStack,
    StackImage,
    Zone,
)
from leases.models import Lease
from portal.accounts.models import Membership, Organization, Project, SSHKey, User
from portal.common.periods import Period, period

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
H100 = "h100-sxm5-80gb"
REGION = "aws/us-east-1"

_numbers = itertools.count(1)

# name, memory in GiB, family: what the vendor prints on the product
_GPU_MODELS = {
    H100: ("H100 SXM 80 GB", 80, "Hopper"),
    "h200-sxm5-141gb": ("H200 SXM 141 GB", 141, "Hopper"),
    "a100-sxm4-80gb": ("A100 SXM 80 GB", 80, "Ampere"),
    "a100-sxm4-40gb": ("A100 SXM 40 GB", 40, "Ampere"),
}
# AWS's own names, so that tests read like the product's data
_TYPE_NAMES = {
    ("aws", H100, 8): "p5.48xlarge",
    ("aws", "h200-sxm5-141gb", 8): "p5en.48xlarge",
    ("aws", "a100-sxm4-80gb", 8): "p4de.24xlarge",
    ("aws", "a100-sxm4-40gb", 8): "p4d.24xlarge",
}


def make_user(*, email: str = "", password: str | None = None, **fields: Any) -> User:
    """Return a person; without ``password`` nobody can sign in as them."""
    return User.objects.create_user(email or f"person{next(_numbers)}@example.com", password, **fields)


def make_organization(
    *,
    name: str = "",
    owner: User | None = None,
    state: str = Organization.State.APPROVED,
    segment: str = Organization.Segment.STARTUP,
    **fields: Any,
) -> Organization:
    """Return an approved organization; ``owner`` becomes its owner where given."""
    organization = Organization.objects.create(
        name=name or f"Organization {next(_numbers)}", state=state, segment=segment, **fields
    )
    if owner is not None:
        make_membership(organization=organization, user=owner, role=Membership.Role.OWNER)
    return organization


def make_membership(
    *, organization: Organization, user: User | None = None, role: str = Membership.Role.MEMBER
) -> Membership:
    """Return a membership; makes the person where none is given."""
    return Membership.objects.create(organization=organization, user=user or make_user(), role=role)


def make_project(*, organization: Organization, name: str = "") -> Project:
    return Project.objects.create(organization=organization, name=name or f"Project {next(_numbers)}")


def make_ssh_key(*, organization: Organization, added_by: User | None = None, name: str = "laptop") -> SSHKey:
    """Return a key with a unique fingerprint; for parsing rules use the product's own function."""
    number = next(_numbers)
    return SSHKey.objects.create(
        organization=organization,
        added_by=added_by or make_user(),
        name=name,
        public_key=f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey{number:06d}",
        key_type="ssh-ed25519",
        bits=256,
        fingerprint=f"SHA256:{number:043d}",
    )


def make_gpu_model(*, slug: str = H100) -> GpuModel:
    """Return the GPU model with this slug, made once."""
    name, memory, family = _GPU_MODELS.get(slug, (slug.upper(), 80, ""))
    return GpuModel.objects.get_or_create(
        slug=slug, defaults={"name": name, "memory_gib": memory, "family": family}
    )[0]


def make_provider(*, slug: str = "aws", kind: str = "") -> Provider:
    """Return the provider with this slug, made once; no adapter unless ``kind`` names one."""
    return Provider.objects.get_or_create(slug=slug, defaults={"name": slug.upper(), "kind": kind})[0]


def make_region(*, region: str = REGION, provider_kind: str = "") -> Region:
    """Return the region written ``provider/code``, made once."""
    provider_slug, _, code = region.rpartition("/")
    provider = make_provider(slug=provider_slug or "aws", kind=provider_kind)
    return Region.objects.get_or_create(provider=provider, code=code)[0]


def make_zone(*, region: str = REGION, code: str = "") -> Zone:
    """Return a zone of the region, ``…a`` unless said otherwise, made once."""
    row = make_region(region=region)
    return Zone.objects.get_or_create(region=row, code=code or f"{row.code}a")[0]


def make_instance_type(
    *, gpu_model: str = H100, gpus_per_node: int = 8, provider: str = "aws", name: str = ""
) -> InstanceType:
    """Return the provider's type with these GPUs, made once."""
    known = _TYPE_NAMES.get((provider, gpu_model, gpus_per_node), f"gpu_{gpus_per_node}x_{gpu_model}")
    return InstanceType.objects.get_or_create(
        provider=make_provider(slug=provider),
        name=name or known,
        defaults={"gpu_model": make_gpu_model(slug=gpu_model), "gpus_per_node": gpus_per_node},
    )[0]


def make_stack(
    *, slug: str = "pytorch", images: dict[str, str] | None = None, **fields: Any
) -> SoftwareStack:
    """Return a stack with its images: what the launch takes, by ``provider`` or ``provider/region``.

    A third part is the architecture: ``aws/us-east-1/arm64``, ``aws//arm64``.
    """
    fields = {
        "name": slug.title(),
        "operating_system": "Ubuntu 24.04",
        "contents": [{"name": "PyTorch", "version": "2.7"}, {"name": "CUDA", "version": "12.8"}],
    } | fields
    stack = SoftwareStack.objects.create(slug=slug, **fields)
    for place, reference in ({"aws": "ami-1"} if images is None else images).items():
        provider, region, architecture = (*place.split("/"), "", "")[:3]
        make_image(
            stack=stack,
            provider=provider,
            region=region,
            architecture=architecture or "x86_64",
            reference=reference,
        )
    return stack


def make_image(*, stack: SoftwareStack, provider: str = "aws", region: str = "", **fields: Any) -> StackImage:
    """Return what a provider calls a stack, everywhere unless ``region`` is a code."""
    return StackImage.objects.create(
        stack=stack,
        provider=make_provider(slug=provider),
        region=make_region(region=f"{provider}/{region}") if region else None,
        **{"reference": "ami-1", **fields},
    )


def make_account(*, provider: str = "aws", name: str = "", **fields: Any) -> ProviderAccount:
    """Return a provider account that allows resale and shows its stock."""
    fields.setdefault("resale_allowed", True)
    return ProviderAccount.objects.create(
        provider=make_provider(slug=provider),
        name=name or f"{provider} account {next(_numbers)}",
        **fields,
    )


def make_commitment(
    *,
    account: ProviderAccount | None = None,
    region: str = REGION,
    gpu_model: str = H100,
    gpus_per_node: int = 8,
    quantity: int = 4,
    promised: Period | None = None,
    cost_per_node_hour: Decimal | str = "16.00",
    instance_type: InstanceType | None = None,
    **fields: Any,
) -> Commitment:
    """Return a commitment of ``quantity`` nodes, not delivered yet."""
    zone = make_zone(region=region)
    provider = zone.region.provider.slug
    return Commitment.objects.create(
        account=account or make_account(provider=provider),
        zone=zone,
        instance_type=instance_type
        or make_instance_type(gpu_model=gpu_model, gpus_per_node=gpus_per_node, provider=provider),
        quantity=quantity,
        promised=promised or period(NOW - timedelta(days=90), NOW + timedelta(days=365)),
        cost_per_node_hour=Decimal(cost_per_node_hour),
        **fields,
    )


@dataclass(frozen=True)
class Fleet:
    """Delivered nodes of one commitment."""

    commitment: Commitment
    nodes: list[Node]
    fabrics: list[Fabric] = field(default_factory=list)

    @property
    def account(self) -> ProviderAccount:
        return self.commitment.account

    @property
    def instance_type(self) -> InstanceType:
        return self.commitment.instance_type

    @property
    def region(self) -> Region:
        return self.commitment.zone.region


def make_fleet(
    *,
    nodes: int = 4,
    gpus_per_node: int = 8,
    gpu_model: str = H100,
    region: str = REGION,
    available: Period | None = None,
    account: ProviderAccount | None = None,
    nodes_per_fabric: int | None = None,
    turnaround: timedelta = timedelta(minutes=30),
    health: str = Node.Health.HEALTHY,
    cost_per_node_hour: Decimal | str = "16.00",
    **fields: Any,
) -> Fleet:
    """Return ``nodes`` healthy nodes of a commitment, usable during ``available``.

    ``available`` is 90 days before :data:`NOW` to 365 days after it unless given.
    ``nodes_per_fabric`` groups them, in order, into fabrics; ``None`` means no fabric.
    """
    available = available or period(NOW - timedelta(days=90), NOW + timedelta(days=365))
    commitment = make_commitment(
        account=account,
        region=region,
        gpu_model=gpu_model,
        gpus_per_node=gpus_per_node,
        quantity=nodes,
        promised=available,
        cost_per_node_hour=cost_per_node_hour,
        turnaround=turnaround,
        fabric_size=nodes_per_fabric or 1,
        **fields,
    )
    zone = commitment.zone
    fabrics: list[Fabric] = []
    if nodes_per_fabric:
        fabrics = Fabric.objects.bulk_create(
            Fabric(zone=zone, name=f"{commitment.uid}-fabric-{number}")
            for number in range(-(-nodes // nodes_per_fabric))
        )
    rows = Node.objects.bulk_create(
        Node(
            name=f"{commitment.uid}-{number}",
            account=commitment.account,
            commitment=commitment,
            instance_type=commitment.instance_type,
            region=zone.region,
            zone=zone,
            fabric=fabrics[number // nodes_per_fabric] if nodes_per_fabric else None,
            available=available,
            turnaround=turnaround,
            health=health,
        )
        for number in range(nodes)
    )
    return Fleet(commitment=commitment, nodes=rows, fabrics=fabrics)


def make_request(
    *,
    gpu_model: str = H100,
    gpus_per_node: int = 8,
    nodes: int = 1,
    start: datetime = NOW + timedelta(days=1),
    end: datetime | None = None,
    hours: int = 24,
    region: str | None = None,
    one_fabric: bool = False,
    stack: str | None = None,
) -> Any:
    """Return a capacity request of ``hours`` from ``start`` unless ``end`` is given."""
    from leases.requests import CapacityRequest

    return CapacityRequest(
        gpu_model=gpu_model,
        gpus_per_node=gpus_per_node,
        nodes=nodes,
        start=start,
        end=end or start + timedelta(hours=hours),
        region=region,
        one_fabric=one_fabric,
        stack=stack,
    )


def make_lease(
    *,
    organization: Organization | None = None,
    actor: User | None = None,
    name: str = "training",
    state: str = Lease.State.SCHEDULED,
    now: datetime = NOW,
    hold_minutes: int = 15,
    project: Project | None = None,
    ssh_keys: Any = (),
    allowed_addresses: Any = (),
    image: str = "",
    **wanted: Any,
) -> Lease:
    """Return a lease on the fleet that exists: held, awaiting or scheduled, by the domain's own calls.

    ``wanted`` goes to :func:`make_request`.
    """
    from leases import booking, lifecycle
    from portal.common.transactions import durable

    lease = booking.hold(
        request=make_request(**wanted),
        organization=organization or make_organization(),
        project=project,
        name=name,
        actor=actor,
        now=now,
        expires_at=now + timedelta(minutes=hold_minutes),
        ssh_keys=ssh_keys,
        allowed_addresses=allowed_addresses,
        image=image,
    )
    if state != Lease.State.HELD:
        with durable():
            lease = lifecycle.lock_lease(lease.pk)
            deadline = now + timedelta(hours=24) if state == Lease.State.AWAITING else None
            booking.confirm(lease, to=Lease.State(state), deadline=deadline, actor=actor, now=now)
    return lease
