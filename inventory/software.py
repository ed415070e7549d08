"""Which software stack can be had where: the region's own image beats the provider's.

A stack fits an instance type where the provider's image in that region is enabled, has
the type's architecture, and the stack supports the type's GPU.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connection
from django.utils.translation import gettext as _

from inventory.models import Architecture, Provider, Region, SoftwareStack, StackImage
from portal.common.errors import InvalidInput

# GPUs that come only beside Arm processors: Grace superchips, and T4G with Graviton.
ARM_GPUS = ("gh200-", "gb200-", "gb300-", "t4g-")

# Which image decides: of stack ``s`` for instance type ``t`` in region ``r``. A region's own
# row decides there even where it is disabled.
_IMAGES = """
    inventory_softwarestack s
    JOIN inventory_stackimage i ON i.stack_id = s.id AND i.enabled
    JOIN inventory_region r ON r.provider_id = i.provider_id
        AND (i.region_id = r.id OR i.region_id IS NULL AND NOT EXISTS (
            SELECT FROM inventory_stackimage own
            WHERE own.stack_id = i.stack_id AND own.region_id = r.id AND own.architecture = i.architecture))
    JOIN inventory_instancetype t ON t.provider_id = i.provider_id AND t.architecture = i.architecture
    JOIN inventory_gpumodel g ON g.id = t.gpu_model_id
        AND s.gpu_vendor IN ('', g.vendor) AND (s.gpu_families = '{}' OR g.family = ANY(s.gpu_families))"""


def has_image(*, type_id: str, region_id: str) -> str:
    """Return the SQL condition that a type in a region has an image of the stack ``%(stack)s``.

    ``type_id`` and ``region_id`` are SQL expressions. Whether the stack is still sold is
    not asked: a lease that was promised it keeps it.
    """
    return f"({type_id}, {region_id}) IN (SELECT t.id, r.id FROM {_IMAGES} WHERE s.slug = %(stack)s)"  # noqa: S608 - fragments of ours


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


def stacks_for(
    *, gpu_model: str | None = None, gpus_per_node: int | None = None, region_id: int | None = None
) -> list[SoftwareStack]:
    """Return the stacks that are offered and have an image for some such type and region, in their order.

    One statement. ``None`` means any. What we hold is not asked: see :func:`stacks_by_type`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT DISTINCT s.id FROM {_IMAGES}
            WHERE s.enabled AND (%(gpu_model)s::text IS NULL OR g.slug = %(gpu_model)s)
              AND (%(gpus)s::int IS NULL OR t.gpus_per_node = %(gpus)s)
              AND (%(region)s::bigint IS NULL OR r.id = %(region)s)""",  # noqa: S608 - a constant
            {"gpu_model": gpu_model, "gpus": gpus_per_node, "region": region_id},
        )
        found = [row[0] for row in cursor.fetchall()]
    return list(SoftwareStack.objects.filter(pk__in=found))


def stacks_by_type(pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[str]]:
    """Return the slugs of the offered stacks for each (instance type, region), by primary keys.

    One statement however many pairs; the slugs come in the stacks' order.
    """
    wanted = list(dict.fromkeys(pairs))
    found: dict[tuple[int, int], list[str]] = {pair: [] for pair in wanted}
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT t.id, r.id, s.slug FROM {_IMAGES}
            WHERE s.enabled AND (t.id, r.id) IN (
                SELECT * FROM unnest(%(types)s::bigint[], %(regions)s::bigint[]))
            ORDER BY s.position, s.name, s.id""",  # noqa: S608 - a constant
            {"types": [pair[0] for pair in wanted], "regions": [pair[1] for pair in wanted]},
        )
        for type_id, region_id, slug in cursor.fetchall():
            found[type_id, region_id].append(slug)
    return found


def image_for(
    *, stack: SoftwareStack, provider: Provider, region: Region, architecture: str
) -> StackImage | None:
    """Return what to launch for a stack: the region's own row, else the provider's; ``None`` if it is disabled.

    The region's own row decides even where it is disabled. Whether the stack is still
    sold is not asked.
    """
    rows = StackImage.objects.filter(stack=stack, provider=provider, architecture=architecture)
    image = rows.filter(region=region).first() or rows.filter(region=None).first()
    return image if image is not None and image.enabled else None
