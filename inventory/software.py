"""Which software stack can be had where: the most particular image decides.

An image is for a provider and a processor, and may be limited to a region and to
instance types. Of those that match a type in a region, one of that region comes before
one of the provider, then one that names types before one for all. It decides even where
it is disabled, so that staff can take one place out. A stack fits a type where that
image is enabled and the stack supports the type's GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import connection
from django.utils.translation import gettext as _

from inventory.models import Architecture, InstanceType, Region, SoftwareStack, StackImage
from portal.common.errors import InvalidInput

# GPUs that come only beside Arm processors: Grace superchips, and T4G with Graviton.
ARM_GPUS = ("gh200-", "gb200-", "gb300-", "t4g-")


def _deciding(narrowed: str) -> str:
    """Return the SQL of the image that decides, for each stack ``s``, type ``t`` and region ``r``.

    ``narrowed`` is a condition on those, and on the type's GPU model ``g``.
    """
    return f"""
        SELECT DISTINCT ON (s.id, t.id, r.id)
            s.id AS stack_id, t.id AS type_id, r.id AS region_id, i.id AS image_id, i.enabled
        FROM inventory_softwarestack s
        JOIN inventory_stackimage i ON i.stack_id = s.id
        JOIN inventory_region r ON r.provider_id = i.provider_id
            AND (i.region_id IS NULL OR i.region_id = r.id)
        JOIN inventory_instancetype t ON t.provider_id = i.provider_id AND t.architecture = i.architecture
            AND (i.instance_types = '{{}}' OR EXISTS (
                SELECT FROM unnest(i.instance_types) AS name
                WHERE t.name LIKE replace(replace(replace(name, '_', '\\_'), '%%', '\\%%'), '*', '%%')))
        JOIN inventory_gpumodel g ON g.id = t.gpu_model_id
            AND s.gpu_vendor IN ('', g.vendor) AND (s.gpu_families = '{{}}' OR g.family = ANY(s.gpu_families))
        WHERE {narrowed}
        ORDER BY s.id, t.id, r.id, i.region_id IS NULL, i.instance_types = '{{}}', i.id"""  # noqa: S608 - fragments of ours


def has_image(*, type_id: str, region_id: str, one_gpu_model: bool) -> str:
    """Return the SQL condition that a type in a region has an image of the stack ``%(stack)s``.

    ``type_id`` and ``region_id`` are SQL expressions. ``one_gpu_model``: only types of
    ``%(gpu_model)s`` with ``%(gpus_per_node)s`` are asked for, so no other needs a look.
    Whether the stack is still sold is not asked: a lease that was promised it keeps it.
    """
    if not one_gpu_model:
        images = _deciding("s.slug = %(stack)s")
        return f"({type_id}, {region_id}) IN (SELECT type_id, region_id FROM ({images}) images WHERE enabled)"  # noqa: S608 - fragments of ours
    # Few types and regions: found once, before the nodes, whose plan stays as it is without software.
    images = _deciding(
        "s.slug = %(stack)s AND g.slug = %(gpu_model)s AND t.gpus_per_node = %(gpus_per_node)s"
    )
    found = f"SELECT ROW(type_id, region_id) FROM ({images}) images WHERE enabled"  # noqa: S608 - fragments of ours
    return f"ROW({type_id}, {region_id}) = ANY(ARRAY({found}))"


def offered_instead() -> str:
    """Return the SQL of the images of offered stacks but ``%(stack)s``, on the GPUs of :func:`has_image`.

    Columns: ``stack_id``, ``type_id``, ``region_id``, ``image_id``, ``enabled``.
    """
    return _deciding(
        "s.enabled AND s.slug <> %(stack)s AND g.slug = %(gpu_model)s AND t.gpus_per_node = %(gpus_per_node)s"
    )


def architecture_of(gpu_model: str) -> Architecture:
    """Return the processor that a GPU model (by slug) comes with, where no better fact is known."""
    return Architecture.ARM64 if gpu_model.startswith(ARM_GPUS) else Architecture.X86_64


def stack_for(slug: str) -> SoftwareStack:
    """Return the stack that a new lease asks for.

    Raises :class:`InvalidInput` (field ``stack``) for one that is unknown or no longer offered.
    """
    stack = SoftwareStack.objects.filter(slug=slug, enabled=True).first()
    if stack is None:
        raise InvalidInput(
            _("There is no software “%(slug)s”. Choose one from the list.") % {"slug": str(slug)[:60]},
            field="stack",
        )
    return stack


def stacks_by_type(pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[SoftwareStack]]:
    """Return the stacks that are offered on each (instance type, region), by primary keys.

    Two statements however many pairs; the stacks come in their order.
    """
    found: dict[tuple[int, int], list[SoftwareStack]] = {pair: [] for pair in pairs}
    rows = _rows(
        f"""
        SELECT stack_id, type_id, region_id FROM ({
            _deciding(
                "s.enabled AND (t.id, r.id) IN"
                " (SELECT * FROM unnest(%(types)s::bigint[], %(regions)s::bigint[]))"
            )
        }) images WHERE enabled""",  # noqa: S608 - fragments of ours
        types=[type_id for type_id, _region in found],
        regions=[region_id for _type, region_id in found],
    )
    offered: dict[int, list[tuple[int, int]]] = {}
    for stack_id, type_id, region_id in rows:
        offered.setdefault(stack_id, []).append((type_id, region_id))
    for stack in SoftwareStack.objects.filter(pk__in=offered):
        for pair in offered[stack.pk]:
            found[pair].append(stack)
    return found


def stacks_for(pairs: Iterable[tuple[int, int]]) -> list[SoftwareStack]:
    """Return the stacks that are offered on any of these (instance type, region), in their order."""
    found = stacks_by_type(pairs)
    some = {stack.pk: stack for stacks in found.values() for stack in stacks}
    return sorted(some.values(), key=lambda stack: (stack.position, stack.name, stack.pk))


def images_of(*, stack: SoftwareStack, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], StackImage]:
    """Return what to launch for a stack on each (instance type, region) that has an enabled image.

    Two statements however many pairs. Whether the stack is still sold is not asked.
    """
    wanted = list(dict.fromkeys(pairs))
    rows = _rows(
        f"""
        SELECT type_id, region_id, image_id FROM ({
            _deciding(
                "s.id = %(stack)s AND (t.id, r.id) IN"
                " (SELECT * FROM unnest(%(types)s::bigint[], %(regions)s::bigint[]))"
            )
        }) images WHERE enabled""",  # noqa: S608 - fragments of ours
        stack=stack.pk,
        types=[type_id for type_id, _region in wanted],
        regions=[region_id for _type, region_id in wanted],
    )
    images = StackImage.objects.in_bulk({image_id for _type, _region, image_id in rows})
    return {(type_id, region_id): images[image_id] for type_id, region_id, image_id in rows}


def image_for(*, stack: SoftwareStack, instance_type: InstanceType, region: Region) -> StackImage | None:
    """Return what to launch for a stack on a type in a region; ``None`` where nothing is enabled."""
    pair = (instance_type.pk, region.pk)
    return images_of(stack=stack, pairs=[pair]).get(pair)


def _rows(statement: str, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
