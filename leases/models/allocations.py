"""One node, one purpose, one period. PostgreSQL refuses a second (C1, C2)."""

from __future__ import annotations

from datetime import datetime

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.functions import Least
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import Node
from leases.models.leases import Lease


class Allocation(models.Model):
    """A node given to one purpose for a period.

    ``period`` is what the customer pays for; ``occupied`` adds the planned turnaround.
    ``node_available`` copies the node's ``available`` through a foreign key with
    ON UPDATE CASCADE (migration), so that C2 is a CHECK on one row. ``delivered`` runs
    from the passed probe to the end of the machine; usage never leaves it.
    """

    class Purpose(models.TextChoices):
        LEASE = "lease", _("Lease")
        MAINTENANCE = "maintenance", _("Maintenance")
        TEST = "test", _("Test")

    node = models.ForeignKey(  # the index below starts with the node
        Node, on_delete=models.PROTECT, related_name="allocations", db_index=False
    )
    node_available = DateTimeRangeField(default_bounds="[)")
    period = DateTimeRangeField(_("period"), default_bounds="[)")
    occupied = DateTimeRangeField(_("occupied"), default_bounds="[)")
    # The ends of ``occupied`` as columns, so that one probe of a B-tree finds a node's neighbours in time.
    occupied_from = models.GeneratedField(
        expression=F("occupied__startswith"),  # type: ignore[arg-type]
        output_field=models.DateTimeField(),
        db_persist=True,
    )
    occupied_until = models.GeneratedField(
        expression=F("occupied__endswith"),  # type: ignore[arg-type]
        output_field=models.DateTimeField(),
        db_persist=True,
    )
    purpose = models.CharField(_("purpose"), max_length=16, choices=Purpose, default=Purpose.LEASE)
    lease = models.ForeignKey(
        Lease, on_delete=models.PROTECT, null=True, blank=True, related_name="allocations"
    )
    delivered = DateTimeRangeField(_("delivered"), default_bounds="[)", null=True, blank=True)
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("allocation")
        verbose_name_plural = _("allocations")
        ordering = ["pk"]
        indexes = [
            # Allocations of a node never overlap, so their ends have one order. Search and booking
            # read nothing but this index.
            models.Index(
                fields=["node", "occupied_until"],
                include=["occupied_from", "lease"],
                name="allocation_neighbours",
            )
        ]
        constraints = [
            ExclusionConstraint(  # C1
                name="no_two_allocations_of_a_node",
                expressions=[(F("node"), RangeOperators.EQUAL), (F("occupied"), RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(  # C2, with the foreign key to node(id, available)
                condition=Q(occupied__contained_by=F("node_available")), name="allocation_inside_available"
            ),
            models.CheckConstraint(
                condition=Q(period__contained_by=F("occupied")), name="allocation_period_inside_occupied"
            ),
            models.CheckConstraint(
                condition=Q(
                    period__isempty=False, period__startswith__isnull=False, period__endswith__isnull=False
                ),
                name="allocation_period_clean",
            ),
            models.CheckConstraint(
                condition=Q(
                    occupied__isempty=False,
                    occupied__startswith__isnull=False,
                    occupied__endswith__isnull=False,
                ),
                name="allocation_occupied_clean",
            ),
            models.CheckConstraint(
                condition=Q(purpose="lease", lease__isnull=False)
                | (~Q(purpose="lease") & Q(lease__isnull=True)),
                name="allocation_lease_matches_purpose",
            ),
            models.CheckConstraint(
                condition=Q(delivered=None)
                | Q(delivered__isempty=False, delivered__startswith__isnull=False),
                name="allocation_delivered_clean",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.node_id} {self.purpose} {self.period}"


class ShortfallQuerySet(models.QuerySet["Shortfall"]):
    """Shortfalls, and the one way to close them."""

    def close(self, *, at: datetime) -> int:
        """End the open ones at ``at`` (UTC); return how many. What had not begun by then is deleted.

        The period ends with the shortfall, so that whoever charges or counts reads the period alone.
        """
        open_ones = self.filter(closed_at=None)
        never_began, _per_model = open_ones.filter(period__startswith__gte=at).delete()
        until = Least(F("period__endswith"), Value(at))
        period = Func(F("period__startswith"), until, Value("[)"), function="tstzrange")
        return never_began + open_ones.update(closed_at=at, period=period)


class Shortfall(models.Model):
    """One node that a lease should have and has not: since when and why. Never charged.

    With ``allocation`` the lease has the node, but it is not delivered or does not work;
    without, the lease has lost it. C3 counts only the latter, P3 both.
    """

    class Cause(models.TextChoices):
        LATE = "late", _("Late")  # the machine before it has not been wiped, or the launch takes long
        NO_CAPACITY = "no_capacity", _("Provider has no capacity")
        NODE_FAILED = "node_failed", _("Node failed")
        NODE_WITHDRAWN = "node_withdrawn", _("Node withdrawn")
        LAUNCH_FAILED = "launch_failed", _("Launch failed")

    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="shortfalls")
    allocation = models.ForeignKey(
        Allocation, on_delete=models.CASCADE, null=True, blank=True, related_name="shortfalls"
    )
    period = DateTimeRangeField(_("period"), default_bounds="[)")  # bounded by the term's end
    cause = models.CharField(_("cause"), max_length=20, choices=Cause)
    detail = models.CharField(_("detail"), max_length=300, blank=True)
    told_at = models.DateTimeField(_("customer told"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ShortfallQuerySet.as_manager()

    class Meta:
        verbose_name = _("shortfall")
        verbose_name_plural = _("shortfalls")
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    period__isempty=False, period__startswith__isnull=False, period__endswith__isnull=False
                ),
                name="shortfall_period_clean",
            ),
            models.UniqueConstraint(
                fields=["allocation"], condition=Q(closed_at=None), name="one_open_shortfall_per_allocation"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id} {self.cause}"
