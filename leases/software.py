"""Which software customers can choose: what some node that we hold has an image of. And what lost it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count

from inventory.models import Node, SoftwareStack
from inventory.software import images_of, stacks_by_type
from leases.gaps import show_confidential
from leases.models import Allocation, Lease


@dataclass(frozen=True)
class OfferedStack:
    """A stack, and where a lease can have it: GPU models by name, regions as ``provider/code``."""

    stack: SoftwareStack
    gpu_models: tuple[str, ...]
    regions: tuple[str, ...]


def offered_stacks(
    *,
    gpu_model: str | None = None,
    gpus_per_node: int | None = None,
    region: str | None = None,
    confidential: bool | None = None,
) -> list[OfferedStack]:
    """Return the stacks on offer, in their order, with where we hold nodes that have an image.

    Narrowed to a GPU model (slug), nodes of a size, and a region (``provider/code``, or a
    code alone). Stock that is confidential tells nothing here unless ``confidential`` says
    so. Three statements, whatever there is.
    """
    nodes = Node.objects.exclude(health=Node.Health.RETIRED).exclude(commitment=None)
    if not show_confidential(confidential):
        nodes = nodes.exclude(account__stock_confidential=True)
    if gpu_model:
        nodes = nodes.filter(instance_type__gpu_model__slug=gpu_model)
    if gpus_per_node:
        nodes = nodes.filter(instance_type__gpus_per_node=gpus_per_node)
    if region:
        provider, _slash, code = region.rpartition("/")
        nodes = nodes.filter(region__code=code)
        nodes = nodes.filter(region__provider__slug=provider) if provider else nodes
    held = nodes.values_list(
        "instance_type",
        "region",
        "instance_type__gpu_model__name",
        "region__provider__slug",
        "region__code",
    ).distinct()
    names = {
        (type_id, region_id): (gpu, f"{provider}/{code}") for type_id, region_id, gpu, provider, code in held
    }
    places: dict[SoftwareStack, list[tuple[str, str]]] = {}
    for pair, stacks in stacks_by_type(names).items():
        for stack in stacks:
            places.setdefault(stack, []).append(names[pair])
    return [
        OfferedStack(
            stack=stack,
            gpu_models=tuple(sorted({gpu for gpu, _region in places[stack]})),
            regions=tuple(sorted({where for _gpu, where in places[stack]})),
        )
        for stack in sorted(places, key=lambda stack: (stack.position, stack.name, stack.pk))
    ]


def stacks_of(lease: Lease) -> list[SoftwareStack]:
    """Return the stacks on offer that every node of the lease has an image of: what it may change to."""
    pairs = set(lease.allocations.values_list("node__instance_type", "node__region"))
    everywhere = [set(stacks) for stacks in stacks_by_type(pairs).values()]
    common = set.intersection(*everywhere) if everywhere else set()
    return sorted(common, key=lambda stack: (stack.position, stack.name, stack.pk))


def nodes_without_image(*, now: datetime) -> int:
    """Return how many promised nodes, not delivered yet, have no enabled image of their lease's software.

    Their launch would fail: staff enable an image, or give the lease another node, before it starts.
    """
    waiting = Allocation.objects.filter(
        lease__stack__isnull=False,
        lease__state__in=(Lease.State.AWAITING, Lease.State.SCHEDULED, Lease.State.PROVISIONING),
        delivered=None,
        period__endswith__gt=now,
    )
    places: dict[int, dict[tuple[int, int], int]] = {}
    for stack_id, type_id, region_id, nodes in (
        waiting.values_list("lease__stack", "node__instance_type", "node__region")
        .annotate(nodes=Count("pk"))
        .order_by()
    ):
        places.setdefault(stack_id, {})[type_id, region_id] = nodes
    lacking = 0
    for stack in SoftwareStack.objects.filter(pk__in=places):
        found = images_of(stack=stack, pairs=places[stack.pk])
        lacking += sum(nodes for pair, nodes in places[stack.pk].items() if pair not in found)
    return lacking
