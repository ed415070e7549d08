"""What a customer asks for, checked before anything is searched or promised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.utils.translation import gettext as _

from inventory.models import GpuModel, InstanceType, Region
from inventory.software import stack_for
from portal.common.errors import InvalidInput
from portal.common.periods import Period, aware_utc, period

FURTHEST = timedelta(days=5 * 366)
MOST_NODES = 10_000
# A start "now" is a moment old when it reaches us.
START_GRACE = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class CapacityRequest:
    """``nodes`` servers with ``gpus_per_node`` GPUs of one model, from ``start`` until ``end`` (UTC).

    ``region`` is ``"aws/us-east-1"``, or a code alone where only one provider uses it;
    ``None`` means any, but always one region per lease. ``one_fabric`` demands that the
    nodes share one fast interconnect. ``stack`` is the slug of the software that they
    must be able to start with; ``None`` means the provider account's own image.
    """

    gpu_model: str
    gpus_per_node: int
    nodes: int
    start: datetime
    end: datetime
    region: str | None = None
    one_fabric: bool = False
    stack: str | None = None

    @property
    def period(self) -> Period:
        """The half-open period ``[start, end)`` that the customer pays for."""
        return period(self.start, self.end)

    @property
    def duration(self) -> timedelta:
        return self.end - self.start

    @property
    def hours(self) -> float:
        """Hours from start to end, for search and display only: never for money."""
        return self.duration.total_seconds() / 3600

    def clean(self, now: datetime) -> CapacityRequest:
        """Return the request in UTC, or raise :class:`InvalidInput` naming the field."""
        cleaned = self.clean_values(now)
        cleaned.check_catalog()
        return cleaned

    def clean_values(self, now: datetime) -> CapacityRequest:
        """Return the request in UTC after all checks that need no look at the catalog."""
        _whole(self.nodes, field="nodes", most=MOST_NODES)
        _whole(self.gpus_per_node, field="gpus_per_node", most=1024)
        start = aware_utc(self.start, field="start")
        end = aware_utc(self.end, field="end")
        if start <= now - START_GRACE:
            raise InvalidInput(_("The start is in the past. Choose a later start."), field="start")
        if end <= start:
            raise InvalidInput(_("The end must be after the start."), field="end")
        if start > now + FURTHEST:
            raise InvalidInput(_("The start is more than five years ahead."), field="start")
        if end - start > FURTHEST:
            raise InvalidInput(_("A lease lasts five years at most. Choose an earlier end."), field="end")
        return replace(self, start=start, end=end, region=self.region or None, stack=self.stack or None)

    def check_catalog(self) -> None:
        """Raise :class:`InvalidInput` for a GPU model, node size, region or software that the catalog lacks."""
        sizes = set(
            InstanceType.objects.filter(gpu_model__slug=self.gpu_model).values_list(
                "gpus_per_node", flat=True
            )
        )
        if not sizes and not GpuModel.objects.filter(slug=self.gpu_model).exists():
            raise InvalidInput(
                _("There is no GPU model “%(slug)s”. Choose one from the catalog.")
                % {"slug": str(self.gpu_model)[:60]},
                field="gpu_model",
            )
        if self.gpus_per_node not in sizes:
            raise InvalidInput(
                _("%(slug)s does not come with %(asked)s GPUs per node; choose %(sizes)s.")
                % {
                    "slug": self.gpu_model,
                    "asked": self.gpus_per_node,
                    "sizes": ", ".join(str(size) for size in sorted(sizes)) or _("another model"),
                },
                field="gpus_per_node",
            )
        if self.region:
            region_id(self.region)
        if self.stack:
            stack_for(self.stack)

    def as_dict(self) -> dict[str, object]:
        """Return JSON-serialisable facts, for the event log and for stored quotes."""
        return {
            "gpu_model": self.gpu_model,
            "gpus_per_node": self.gpus_per_node,
            "nodes": self.nodes,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "region": self.region,
            "one_fabric": self.one_fabric,
            # Left out where none is chosen, so that requests stored before stacks existed compare equal.
            **({"stack": self.stack} if self.stack else {}),
        }


def region_id(region: str) -> int:
    """Return the region's primary key for ``provider/code`` or an unambiguous ``code``.

    Raises :class:`InvalidInput` (field ``region``) for an unknown or ambiguous one.
    """
    provider, _slash, code = region.rpartition("/")
    found = Region.objects.filter(code=code)
    if provider:
        found = found.filter(provider__slug=provider)
    ids = list(found.values_list("pk", flat=True)[:2])
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise InvalidInput(
            _("Several providers have a region “%(region)s”: write it as provider/region.")
            % {"region": region[:60]},
            field="region",
        )
    raise InvalidInput(
        _("There is no region “%(region)s”. Choose one from the catalog.") % {"region": region[:60]},
        field="region",
    )


def _whole(value: object, *, field: str, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(
            _("%(field)s must be a whole number of at least 1.") % {"field": field}, field=field
        )
    if value > most:
        raise InvalidInput(
            _("%(field)s may be at most %(most)s.") % {"field": field, "most": most}, field=field
        )
