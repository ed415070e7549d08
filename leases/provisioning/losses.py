"""A machine that is gone without our asking: noted, told, not charged, and launched again."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _

from inventory.models import Node
from leases import lifecycle
from leases.models import Allocation, Instance, LaunchIntent, Lease, Shortfall, Turnover
from leases.provisioning import delivery, intents, shortfalls
from leases.provisioning.facts import RUNS, UNUSABLE
from leases.provisioning.messages import tell_customer, tell_staff
from portal.accounts.models import User
from portal.common.errors import Conflict
from portal.common.nudge import nudge
from portal.common.periods import Period
from portal.common.transactions import durable, require_transaction

LIVE_INTENT = (LaunchIntent.State.PENDING, LaunchIntent.State.CALLING, LaunchIntent.State.LAUNCHED)


# A machine of a launch of several that end only together.
_outside_group = Q(intent__ends_together=True) & Exists(
    Instance.objects.filter(account=OuterRef("account"), intent__group=OuterRef("intent__group")).exclude(
        pk=OuterRef("pk")
    )
)


def lose(*, lease: Lease, instance: Instance, reason: str, now: datetime) -> None:
    """Part: record that a machine is gone. Lease and instance are locked.

    Its delivered time ends when it was last seen, the customer is told at once, and
    another one is launched on the same node where that is in order. Not for one of a
    group that ends together: it could not join the others, and what is launched beside
    them is paid for besides them, so a person decides.
    """
    require_transaction()
    waits_for_staff = Instance.objects.filter(_outside_group, pk=instance.pk).exists()
    allocation, last_seen = instance.allocation, instance.last_seen_at or instance.launched_at
    instance.state, instance.ended_at, instance.end_reason = Instance.State.LOST, now, reason[:300]
    instance.save()
    delivery.revoke_access(instance=instance, now=now)
    LaunchIntent.objects.filter(pk=instance.intent_id).update(
        state=LaunchIntent.State.FAILED, last_error=_("The machine was lost: %(reason)s") % {"reason": reason}
    )
    delivery.close_delivered(allocation, at=last_seen)
    tell_staff(
        kind="machine.lost",
        subject_type="instance",
        subject_id=instance.uid,
        now=now,
        after={"lease": lease.uid, "machine": instance.provider_id, "node": allocation.node_id},
        message=(
            _(
                "A machine of %(lease)s is gone: %(reason)s The provider ends and joins the machines of one "
                "launch only together, so no other one is started by itself: launch one outside of the "
                "group (“Launch again”), or give the lease another node."
            )
            if waits_for_staff
            else _("A machine of %(lease)s is gone: %(reason)s")
        )
        % {"lease": lease.uid, "reason": reason},
    )
    if lease.state not in RUNS or now not in allocation.period:
        return
    shortfalls.open_for(
        lease=lease,
        allocation=allocation,
        cause=Shortfall.Cause.NODE_FAILED,
        detail=_("A server failed, and its local data is lost. Our staff look into it.")
        if waits_for_staff
        else _("A server failed, and its local data is lost. A new one is being started."),
        now=now,
        since=last_seen,
    )
    if not waits_for_staff:
        relaunch(lease=lease, allocation=allocation, now=now)


def relaunch(*, lease: Lease, allocation: Allocation, now: datetime) -> bool:
    """Part: launch again for an allocation whose machine was lost; ``False`` on a node out of order.

    The loss of local data is certain, so nobody has to agree. What was delivered is one
    interval per allocation: after a delivery the rest of the time becomes a further
    allocation of the same node, which inherits the open shortfall.
    """
    require_transaction()
    node = lifecycle.lock_nodes([allocation.node_id])[0]
    if node.health in UNUSABLE:
        return False
    if allocation.delivered is not None:
        allocation = _continue_in_another(lease, allocation, node, now)
    intents.again(lease=lease, allocation=allocation, now=now, after=intents.pause(allocation))
    nudge("leases.tasks.launch_due")
    return True


def _continue_in_another(lease: Lease, old: Allocation, node: Node, now: datetime) -> Allocation:
    """Cut the allocation at ``now`` and give the rest of its time to a further one. The node is locked."""
    period, occupied = old.period, old.occupied
    old.period = old.occupied = Period(period.lower, now, "[)")
    old.save(update_fields=["period", "occupied"])
    evidence = {
        machine.provider_id: {
            "state": machine.state,
            "reason": machine.end_reason,
            "last_seen_at": machine.last_seen_at.isoformat() if machine.last_seen_at else None,
        }
        for machine in old.instances.all()
    }
    Turnover.objects.create(
        allocation=old, requested_at=now, ended_at=now, wiped_at=now, completed_at=now, evidence=evidence
    )
    new = Allocation.objects.create(
        node=node,
        node_available=node.available,
        period=Period(now, period.upper, "[)"),
        occupied=Period(now, occupied.upper, "[)"),
        lease=lease,
        created_at=old.created_at,  # the same promise goes on: nothing new was given
    )
    Shortfall.objects.filter(allocation=old, closed_at=None).update(allocation=new)
    return new


def relaunch_due(*, now: datetime) -> int:
    """Launch again for machines that were lost on a node which was out of order then; return how many."""
    lost = Instance.objects.filter(~_outside_group, allocation=OuterRef("pk"), state=Instance.State.LOST)
    waiting = (
        Allocation.objects.filter(Exists(lost), lease__state__in=RUNS, period__contains=now)
        .exclude(node__health__in=UNUSABLE)
        .filter(~Exists(LaunchIntent.objects.filter(allocation=OuterRef("pk"), state__in=LIVE_INTENT)))
    )
    return sum(_relaunch(pk, now) for pk in waiting.order_by("pk").values_list("pk", flat=True))


def _relaunch(allocation_id: int, now: datetime) -> bool:
    with durable():
        allocation = Allocation.objects.select_related("node__account", "node__region").get(pk=allocation_id)
        rows = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        lease = rows.filter(allocations=allocation, state__in=RUNS).first()
        if lease is None:
            return False
        allocation.refresh_from_db(fields=["period", "occupied", "delivered"])
        last = allocation.intents.order_by("-pk").first()
        # A launch that failed for good afterwards waits for staff.
        lost = Instance.objects.filter(~_outside_group, intent=last, state=Instance.State.LOST)
        gone = last is not None and lost.exists()
        if not gone or now not in allocation.period:
            return False
        return relaunch(lease=lease, allocation=allocation, now=now)


def retry_launch(*, allocation_id: int, actor: User, now: datetime) -> int:
    """Launch again after staff have removed the cause of a permanent failure; return how many launches.

    The rest of a group that failed with it goes too. For a machine that was lost and that
    nothing replaces by itself, another one is launched alone. A launch that waits for other
    credentials is tried now. Raises :class:`Conflict`
    unless the lease runs and the allocation's last launch failed.
    """
    with durable():
        allocation = Allocation.objects.select_related("node__account", "node__region").get(pk=allocation_id)
        if allocation.lease_id is None:
            raise Conflict(_("This allocation is not for a lease: there is nothing to launch."))
        lease = lifecycle.lock_lease(allocation.lease_id)
        allocation.refresh_from_db(fields=["period", "occupied", "delivered"])
        last = allocation.intents.order_by("-pk").first()
        if lease.state not in RUNS or now not in allocation.period:
            raise Conflict(_("The lease does not run now: nothing is launched for it."))
        waits = last is not None and last.state == LaunchIntent.State.PENDING and bool(last.refused_with)
        if last is None or (last.state != LaunchIntent.State.FAILED and not waits):
            raise Conflict(_("The last launch has not failed for good: it goes on by itself."))
        if waits:  # its right may have been given at the provider, with the same credentials
            LaunchIntent.objects.filter(group=last.group, state=LaunchIntent.State.PENDING).update(
                next_try_at=now, refused_with=""
            )
        together = [allocation] if waits else _failed_with(last, lease, now)
        for one in () if waits else together:
            if one.delivered is not None:
                one = _continue_in_another(lease, one, lifecycle.lock_nodes([one.node_id])[0], now)
            intents.again(lease=lease, allocation=one, now=now)
        tell_customer(
            lease=lease,
            kind="lease.launch_retried",
            message=_("The launch is tried again."),
            now=now,
            actor=actor,
            after={"node": allocation.node_id, "nodes": len(together)},
        )
        nudge("leases.tasks.launch_due")
        return len(together)


def _failed_with(last: LaunchIntent, lease: Lease, now: datetime) -> list[Allocation]:
    """Return the intent's allocation, and those whose launch failed for good in the same call."""
    own = Q(pk=last.allocation_id)
    live = LaunchIntent.objects.filter(allocation=OuterRef("pk"), state__in=LIVE_INTENT)
    with_it = Q(
        ~Exists(live),
        intents__group=last.group,
        intents__state=LaunchIntent.State.FAILED,
        intents__instance=None,
        period__contains=now,
    )
    if Instance.objects.filter(intent=last).exists():
        with_it = own
    found = lease.allocations.filter(own | with_it).distinct()
    return list(found.select_related("node__account", "node__region").order_by("pk"))
