"""Keep what was looked for and not found: what, where, when, how many, and never who."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from django.db.models import F

from inventory.models import GpuModel, SoftwareStack
from leases.models import UnmetSearch
from leases.requests import CapacityRequest, region_id
from portal.common.transactions import durable

KEEP = timedelta(days=180)


def keep_search(*, request: CapacityRequest, hours: float, now: datetime) -> None:
    """Count a cleaned request that found no room, once per wish and UTC day.

    ``request.start`` and ``request.end`` are the window, ``hours`` the length of the lease.
    One statement: two at once count two, and neither waits for long.
    """
    with durable():
        wish = UnmetSearch(
            gpu_model_id=GpuModel.objects.values_list("pk", flat=True).get(slug=request.gpu_model),
            gpus_per_node=request.gpus_per_node,
            nodes=request.nodes,
            one_fabric=request.one_fabric and request.nodes > 1,
            region_id=region_id(request.region) if request.region else None,
            stack_id=SoftwareStack.objects.values_list("pk", flat=True).get(slug=request.stack)
            if request.stack
            else None,
            hours=max(math.ceil(hours), 1),
            earliest=_hour(request.start),
            latest=_hour(request.end),
            searched_on=now.astimezone(UTC).date(),
            last_at=now,
        )
        UnmetSearch.objects.bulk_create([wish], ignore_conflicts=True)
        same = UnmetSearch.objects.filter(
            **{
                name: getattr(wish, name)
                for name in (
                    "searched_on",
                    "gpu_model_id",
                    "gpus_per_node",
                    "nodes",
                    "one_fabric",
                    "region_id",
                    "stack_id",
                    "hours",
                    "earliest",
                    "latest",
                )
            }
        )
        same.filter(last_at__lt=now).update(times=F("times") + 1, last_at=now)


def forget_old(*, now: datetime) -> int:
    """Delete what was last asked more than half a year ago; return how many wishes."""
    with durable():
        return UnmetSearch.objects.filter(last_at__lt=now - KEEP).delete()[0]


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
