"""The lease's states: one table, one function that writes them, and the sweep of lapsed holds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import Q
from django.utils.translation import gettext as _

from inventory.models import Node
from leases.errors import HoldLapsed, WrongState
from leases.models import Allocation, Lease, Shortfall
from portal.accounts import events
from portal.accounts.models import User
from portal.common.transactions import durable, require_transaction, retry_conflicts

State = Lease.State

TRANSITIONS: dict[State, frozenset[State]] = {
    State.HELD: frozenset({State.AWAITING, State.SCHEDULED, State.LAPSED, State.CANCELLED}),
    State.AWAITING: frozenset({State.SCHEDULED, State.LAPSED, State.CANCELLED}),
    State.SCHEDULED: frozenset({State.PROVISIONING, State.CANCELLED, State.FAILED}),
    State.PROVISIONING: frozenset({State.ACTIVE, State.ENDING, State.FAILED}),
    State.ACTIVE: frozenset({State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
    State.LAPSED: frozenset(),
    State.CANCELLED: frozenset(),
    State.FAILED: frozenset(),
}
WAITING = (State.HELD, State.AWAITING)  # with a deadline, after which they block nobody
RUNNING = (State.PROVISIONING, State.ACTIVE)  # machines with the customer's data may exist
PROMISED = (State.SCHEDULED, *RUNNING)  # C3 holds for these
LIVE = (*WAITING, *PROMISED, State.ENDING)
LAPSE_BATCH = 100


def lapsed_holds(now: datetime) -> Q:
    """Leases that wait beyond their deadline at ``now``."""
    return Q(state__in=WAITING, deadline__lte=now)


def lock_lease(pk: int) -> Lease:
    """Part: return the lease under ``FOR NO KEY UPDATE``; leases before nodes, by pk."""
    require_transaction()
    return Lease.objects.select_for_update(no_key=True, of=("self",)).get(pk=pk)


def lock_leases(pks: Iterable[int]) -> list[Lease]:
    """Part: lock several leases, waiting, in pk order."""
    require_transaction()
    locked = Lease.objects.select_for_update(no_key=True, of=("self",))
    return list(locked.filter(pk__in=list(pks)).order_by("pk"))


def lock_nodes(pks: Iterable[int]) -> list[Node]:
    """Part: lock nodes, waiting, in pk order. Whoever writes allocations holds their nodes' locks."""
    require_transaction()
    locked = Node.objects.select_for_update(no_key=True, of=("self",))
    return list(locked.filter(pk__in=list(pks)).order_by("pk"))


def move(
    lease: Lease,
    to: Lease.State | str,
    *,
    actor: User | None,
    now: datetime,
    message: str = "",
    deadline: datetime | None = None,
    **facts: Any,
) -> Lease:
    """Part: change the locked lease's state and append the event ``lease.<state>``.

    The only writer of ``state``. ``deadline`` (UTC) is required for ``awaiting`` and
    cleared otherwise; ``facts`` (JSON-serialisable) go into the event. Raises
    :class:`WrongState` for a change that the table does not allow.
    """
    require_transaction()
    before, target = State(lease.state), State(to)
    if target not in TRANSITIONS[before]:
        raise WrongState(
            _("This lease is %(before)s and cannot become %(after)s. Reload to see where it stands.")
            % {"before": before.label.lower(), "after": target.label.lower()},
            state=before.value,
        )
    if target in WAITING and deadline is None:
        raise ValueError("A waiting lease needs a deadline.")
    if deadline is not None:
        facts["deadline"] = deadline.isoformat()
    lease.state = target
    lease.state_changed_at = now
    lease.deadline = deadline if target in WAITING else None
    lease.save(update_fields=["state", "state_changed_at", "deadline"])
    events.record(
        kind=f"lease.{target.value}",
        subject_type="lease",
        subject_id=lease.uid,
        organization=lease.organization,
        actor=actor,
        now=now,
        before={"state": before.value},
        after={"state": target.value, **facts},
        message=message,
    )
    return lease


def check_not_lapsed(lease: Lease, *, now: datetime) -> None:
    """Part: raise :class:`HoldLapsed` unless the locked lease still waits before its deadline."""
    require_transaction()
    if lease.state == State.LAPSED or (lease.deadline is not None and lease.deadline <= now):
        raise HoldLapsed(
            _("The time for this quote is over and its nodes are free again. Ask for a new quote.")
        )
    if lease.state not in WAITING:
        raise WrongState(
            _("This quote was already used: the lease is %(state)s.")
            % {"state": State(lease.state).label.lower()},
            state=str(lease.state),
        )


def release(lease: Lease, *, now: datetime) -> int:
    """Part: take all nodes from the locked lease and close its shortfalls; return the nodes freed.

    Only for leases that never started: what was launched or metered stays on record.
    """
    return _release([lease.pk], now=now)


def _release(lease_pks: list[int], *, now: datetime) -> int:
    require_transaction()
    allocations = Allocation.objects.filter(lease__in=lease_pks)
    lock_nodes(allocations.values_list("node_id", flat=True).distinct())
    Shortfall.objects.filter(lease__in=lease_pks).close(at=now)
    Shortfall.objects.filter(allocation__lease__in=lease_pks).update(allocation=None)
    with connection.cursor() as cursor:  # one statement: nothing that a cascade could reach refers to them
        cursor.execute("DELETE FROM leases_allocation WHERE lease_id = ANY(%s)", [lease_pks])
        return int(cursor.rowcount)


def cancel(lease: Lease, *, actor: User | None, now: datetime, message: str = "", **facts: Any) -> Lease:
    """Part: cancel the locked lease before it starts and free its nodes.

    Raises :class:`WrongState` once provisioning has begun.
    """
    require_transaction()
    if lease.state not in (*WAITING, State.SCHEDULED):
        raise WrongState(
            _("This lease is %(state)s: only a lease that has not started can be cancelled.")
            % {"state": State(lease.state).label.lower()},
            state=str(lease.state),
        )
    freed = release(lease, now=now)
    return move(lease, State.CANCELLED, actor=actor, now=now, message=message, nodes_freed=freed, **facts)


def lapse(leases: Iterable[Lease], *, now: datetime, message: str = "") -> int:
    """Part: remove *all* allocations of the locked waiting leases and mark them lapsed (C5)."""
    rows = list(leases)
    if rows:
        _release([lease.pk for lease in rows], now=now)
        for lease in rows:
            move(lease, State.LAPSED, actor=None, now=now, message=message)
    return len(rows)


def lapse_these(*, lease_pks: Iterable[int], now: datetime) -> int:
    """Lapse those of the leases that still wait beyond their deadline, waiting for locks in pk order.

    Own short transaction, so that the nodes are free for whoever picks next (C5).
    """
    pks = list(lease_pks)

    def attempt() -> int:
        with durable():
            locked = [
                lease
                for lease in lock_leases(pks)
                if lease.state in WAITING and lease.deadline is not None and lease.deadline <= now
            ]
            return lapse(locked, now=now)

    return retry_conflicts(attempt) if pks else 0


def lapse_holds(*, now: datetime) -> int:
    """Sweep: lapse every hold and unpaid lease whose deadline has passed; return how many.

    Safe twice at once: rows that another sweep or an accept holds are skipped, and
    found again by the next run.
    """
    total = 0
    while True:

        def attempt() -> int:
            with durable():
                rows = Lease.objects.select_for_update(no_key=True, of=("self",), skip_locked=True)
                return lapse(rows.filter(lapsed_holds(now)).order_by("pk")[:LAPSE_BATCH], now=now)

        done = retry_conflicts(attempt)
        total += done
        if done < LAPSE_BATCH:
            return total
