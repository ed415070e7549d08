"""Capacity bought under a contract: record its delivery and get its nodes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from django.db.models import Sum
from django.utils.translation import gettext as _

from inventory.models import Commitment, CommitmentDelivery, Fabric, Node
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput
from portal.common.periods import Period, aware_utc, period
from portal.common.transactions import durable, require_transaction


class TooManyNodes(Conflict):
    """More nodes would be delivered than the commitment has."""

    code = "too-many-nodes"


class ResaleNotAllowed(Conflict):
    """The provider account's contract does not say that its capacity may be sublet."""

    code = "resale-not-allowed"


def enter_commitment(*, commitment: Commitment, actor: User | None, now: datetime) -> Commitment:
    """Save a new commitment. Periods are UTC; the cost is per node and hour in its currency.

    Raises :class:`InvalidInput` naming the field; see :func:`check_commitment`.
    """
    with durable():
        check_commitment(commitment)
        return enter(commitment, actor=actor, now=now)


def cancel_commitment(*, commitment_id: int, actor: User | None, now: datetime) -> Commitment:
    """Cancel a commitment of which nothing was delivered; raises :class:`Conflict` otherwise."""
    with durable():
        commitment = lock_commitment(commitment_id)
        if commitment.cancelled_at:
            return commitment
        if commitment.deliveries.exists():
            raise Conflict(_("Nodes were delivered on this commitment: retire them instead."))
        commitment.cancelled_at = now
        commitment.save(update_fields=["cancelled_at"])
        events.record(
            kind="commitment.cancelled",
            subject_type="commitment",
            subject_id=commitment.uid,
            actor=actor,
            now=now,
        )
    return commitment


def record_delivery(
    *,
    commitment_id: int,
    nodes: int,
    accepted_from: datetime,
    actor: User | None,
    now: datetime,
    note: str = "",
) -> list[Node]:
    """Record that the provider delivered ``nodes`` of a commitment, and return the new nodes.

    They can be promised from ``accepted_from`` (UTC; what the provider bills from) until
    the commitment's end less its cut-off and one turnaround. Several deliveries may each
    bring a part. Raises :class:`InvalidInput` naming the field, :class:`TooManyNodes`,
    :class:`ResaleNotAllowed`, and :class:`Conflict` for a cancelled commitment.
    """
    with durable():
        commitment = lock_commitment(commitment_id)
        return deliver(commitment, nodes=nodes, accepted_from=accepted_from, actor=actor, now=now, note=note)


def check_commitment(commitment: Commitment) -> None:
    """Raise :class:`InvalidInput` naming the field of a commitment that makes no sense."""
    provider_id = commitment.account.provider_id
    if commitment.zone.region.provider_id != provider_id:
        raise InvalidInput(_("This zone belongs to another provider than the account."), field="zone")
    if commitment.instance_type.provider_id != provider_id:
        raise InvalidInput(
            _("This instance type belongs to another provider than the account."), field="instance_type"
        )
    if commitment.quantity < 1:
        raise InvalidInput(_("A commitment has at least one node."), field="quantity")
    if commitment.fabric_size < 1:
        raise InvalidInput(_("A fabric has at least one node."), field="fabric_size")
    if commitment.cost_per_node_hour < 0:
        raise InvalidInput(_("The cost cannot be negative."), field="cost_per_node_hour")
    for field in ("cutoff", "turnaround"):
        if getattr(commitment, field) < timedelta():
            raise InvalidInput(_("This cannot be negative."), field=field)
    start, end = commitment.promised.lower, commitment.promised.upper
    aware_utc(start, field="promised")
    aware_utc(end, field="promised")
    if start >= end - commitment.cutoff - commitment.turnaround:
        raise InvalidInput(
            _("The period must be longer than the cut-off and one turnaround together."), field="promised"
        )
    if commitment.pk and (delivered := _delivered(commitment)) > commitment.quantity:
        raise InvalidInput(_("%(n)s nodes were delivered already.") % {"n": delivered}, field="quantity")


def enter(
    commitment: Commitment, *, actor: User | None, now: datetime, before: dict[str, str] | None = None
) -> Commitment:
    """Part: save a checked commitment; ``before`` holds the old values of what changed, by field."""
    require_transaction()
    new = commitment.pk is None
    commitment.save()
    names = ("reservation_id", "quantity", "cost_per_node_hour", "currency", "notice_date") if new else before
    events.record(
        kind="commitment.entered" if new else "commitment.changed",
        subject_type="commitment",
        subject_id=commitment.uid,
        actor=actor,
        now=now,
        before=before or {},
        after={name: str(getattr(commitment, name, "")) for name in names or ()},
    )
    return commitment


def lock_commitment(commitment_id: int) -> Commitment:
    """Part: lock a commitment before its deliveries are read or written."""
    require_transaction()
    return (
        Commitment.objects.select_for_update(no_key=True, of=("self",))
        .select_related("zone__region", "instance_type", "account__provider")
        .get(pk=commitment_id)
    )


def deliver(
    commitment: Commitment,
    *,
    nodes: int,
    accepted_from: datetime,
    actor: User | None,
    now: datetime,
    note: str = "",
) -> list[Node]:
    """Part: like :func:`record_delivery`, for a locked commitment."""
    require_transaction()
    if commitment.cancelled_at:
        raise Conflict(_("This commitment was cancelled: nothing can be delivered on it."))
    if not commitment.account.resale_allowed:
        raise ResaleNotAllowed(
            _(
                "The contract of %(account)s does not allow resale: its nodes would be sold. Tick that it does."
            )
            % {"account": commitment.account.name}
        )
    if nodes < 1:
        raise InvalidInput(_("Deliver at least one node."), field="nodes")
    missing = undelivered(commitment)
    if nodes > missing:
        raise TooManyNodes(
            _("Only %(missing)s of %(quantity)s nodes are still to be delivered.")
            % {"missing": missing, "quantity": commitment.quantity}
        )
    available = available_from(commitment, aware_utc(accepted_from, field="accepted_from"))
    CommitmentDelivery.objects.create(
        commitment=commitment,
        nodes=nodes,
        accepted_from=available.lower,
        recorded_by=actor,
        recorded_at=now,
        note=note,
    )
    created = Node.objects.bulk_create(_new_nodes(commitment, nodes, available))
    events.record(
        kind="commitment.delivered",
        subject_type="commitment",
        subject_id=commitment.uid,
        actor=actor,
        now=now,
        before={"delivered": commitment.quantity - missing},
        after={
            "delivered": commitment.quantity - missing + nodes,
            "accepted_from": available.lower.isoformat(),
            "available_until": available.upper.isoformat(),
        },
    )
    return created


def undelivered(commitment: Commitment) -> int:
    """Return how many of the commitment's nodes the provider has yet to deliver."""
    return commitment.quantity - _delivered(commitment)


def _delivered(commitment: Commitment) -> int:
    return int(commitment.deliveries.aggregate(nodes=Sum("nodes", default=0))["nodes"])


def available_from(commitment: Commitment, start: datetime) -> Period:
    """Return the period in which nodes accepted at ``start`` can be promised.

    It ends before the commitment does: the provider ends machines a cut-off earlier, and
    the last tenant's machine must have been ended, wiped and checked by then.
    """
    end = commitment.promised.upper - commitment.cutoff - commitment.turnaround
    if start >= end:
        raise InvalidInput(
            _("The nodes can be promised only until %(end)s UTC: the accepted start must be earlier.")
            % {"end": f"{end:%Y-%m-%d %H:%M}"},
            field="accepted_from",
        )
    return period(start, end)


def _new_nodes(commitment: Commitment, count: int, available: Period) -> list[Node]:
    """Number the nodes on from those delivered before, and fill fabrics in that order."""
    existing = commitment.nodes.count()
    stem = f"{commitment.zone.code}-{commitment.uid.removeprefix('com_')[:8]}"
    fabrics = _fabrics(commitment, stem, count)
    return [
        Node(
            name=f"{stem}-{existing + index + 1:03}",
            account=commitment.account,
            commitment=commitment,
            instance_type=commitment.instance_type,
            region=commitment.zone.region,
            zone=commitment.zone,
            fabric=fabrics[index],
            available=available,
            turnaround=commitment.turnaround,
        )
        for index in range(count)
    ]


def _fabrics(commitment: Commitment, stem: str, count: int) -> list[Fabric | None]:
    """Return the fabric of each new node; a fabric of one node is none."""
    size = commitment.fabric_size
    if size <= 1:
        return [None] * count
    used = Counter(commitment.nodes.exclude(fabric=None).values_list("fabric_id", flat=True))
    places: list[Fabric | None] = []
    for fabric in Fabric.objects.filter(pk__in=used).order_by("pk"):
        places += [fabric] * (size - used[fabric.pk])
    while len(places) < count:
        number = len(used) + 1
        fabric = Fabric.objects.create(zone=commitment.zone, name=f"{stem}-fabric-{number}")
        used[fabric.pk] = size
        places += [fabric] * size
    return places[:count]
