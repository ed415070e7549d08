"""Which intents are launched in one call, and the claim on all of them.

A group is claimed at once or not at all. Its lease is locked first, so that two workers
never take a part each, and only without waiting, so that nobody waits for a worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import F, QuerySet

from inventory.models import ProviderAccount
from leases.models import LaunchIntent, Lease
from leases.provisioning.claims import CLAIM, Clock, unclaimed
from leases.provisioning.facts import UNDER_WAY
from portal.common.ids import public_id
from portal.common.transactions import durable, require_transaction

# What a launch call needs of an intent.
SELECTED = (
    "account__provider",
    "allocation__lease",
    "allocation__node__region",
    "allocation__node__zone",
    "allocation__node__instance_type",
    "allocation__node__commitment",
)
# So many due intents are looked at before a sweep leaves the rest, which others work on, to the next.
LOOK_AT = 100


@dataclass(frozen=True)
class ClaimedGroup:
    """The intents of one launch call as they were when we claimed them, by pk, and the proof that they are ours.

    ``group`` is the token that the call takes upstream.
    """

    rows: tuple[LaunchIntent, ...]
    token: uuid.UUID
    group: str

    @property
    def first(self) -> LaunchIntent:
        return self.rows[0]

    @property
    def account(self) -> ProviderAccount:
        return self.first.account

    @property
    def region(self) -> str:
        return self.first.allocation.node.region.code

    @property
    def lease_id(self) -> int:
        lease_id = self.first.allocation.lease_id
        assert lease_id is not None, "allocations with an intent belong to a lease"
        return lease_id

    @property
    def was_called(self) -> bool:
        """Whether an earlier call may have made machines of this group."""
        return any(row.state == LaunchIntent.State.CALLING or row.attempts for row in self.rows)

    def extend(self, clock: Clock, **columns: Any) -> bool:
        """Prolong the claim before the next call; ``False`` when somebody else took the group.

        Further ``columns`` are written in the same statement.
        """
        with durable():
            if self.still_ours() is None:
                return False
            held = LaunchIntent.objects.filter(pk__in=[row.pk for row in self.rows])
            held.update(claim_expires_at=clock() + CLAIM, **columns)
            return True

    def still_ours(self) -> list[LaunchIntent] | None:
        """Part: return all the rows, locked and fresh, by pk; ``None`` when somebody else took them."""
        require_transaction()
        held = LaunchIntent.objects.filter(pk__in=[row.pk for row in self.rows], claim_token=self.token)
        rows = list(held.select_for_update(no_key=True, of=("self",)).order_by("pk"))
        return rows if len(rows) == len(self.rows) else None


def claim_next_group(
    due: QuerySet[LaunchIntent], *, clock: Clock, together: Callable[[ProviderAccount], bool]
) -> ClaimedGroup | None:
    """Claim the first due intent with all that is launched in one call with it, and commit.

    ``together`` tells whether an account's provider launches several machines in one call;
    it is asked outside of any transaction. ``None`` when nothing is due, or the sweep has
    had its time.
    """
    if clock.is_over():
        return None
    for candidate in due.filter(unclaimed(clock()))[:LOOK_AT]:
        claimed = _claim(candidate, due, clock, together(candidate.account))
        if claimed:
            return claimed
    return None


def _claim(
    candidate: LaunchIntent, due: QuerySet[LaunchIntent], clock: Clock, together: bool
) -> ClaimedGroup | None:
    with durable():
        leases = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        if leases.filter(allocations=candidate.allocation_id).first() is None:
            return None
        first = due.filter(unclaimed(clock()), pk=candidate.pk).first()
        if first is None:
            return None
        fresh = first.state == LaunchIntent.State.PENDING and not first.attempts
        members = _launched_with(first, due, together) if fresh else _called_with(first)
        rows = list(
            members.filter(unclaimed(clock()))
            .select_for_update(no_key=True, skip_locked=True, of=("self",))
            .order_by("pk")
        )
        if first not in rows or (not fresh and len(rows) < members.count()):
            return None
        group = first.group
        if fresh:
            group = first.token if len(rows) == 1 else public_id("lau")
        claimed = ClaimedGroup(tuple(rows), uuid.uuid4(), group)
        LaunchIntent.objects.filter(pk__in=[row.pk for row in rows]).update(
            claim_token=claimed.token,
            claim_expires_at=clock() + CLAIM,
            state=LaunchIntent.State.CALLING,
            attempts=F("attempts") + 1,
            group=group,
        )
        return claimed


def _launched_with(
    first: LaunchIntent, due: QuerySet[LaunchIntent], together: bool
) -> QuerySet[LaunchIntent]:
    """Return what goes into one call with an intent that nobody has called for: the same but for the node."""
    if not together:
        return due.filter(pk=first.pk)
    node = first.allocation.node
    return due.filter(
        state=LaunchIntent.State.PENDING,
        attempts=0,
        account=first.account_id,
        allocation__lease=first.allocation.lease_id,
        allocation__node__region=node.region_id,
        allocation__node__zone=node.zone_id,
        allocation__node__instance_type=node.instance_type_id,
        allocation__node__commitment=node.commitment_id,
    )


def _called_with(first: LaunchIntent) -> QuerySet[LaunchIntent]:
    """Return all that may have a machine from the same call, also what is not due yet."""
    group = LaunchIntent.objects.filter(group=first.group, account=first.account_id, state__in=UNDER_WAY)
    return group.select_related(*SELECTED)


def regroup(rows: list[LaunchIntent]) -> None:
    """Part: give locked intents a group of their own; the caller saves them.

    Whatever an earlier call for them made carries another token, and can never be taken
    for an answer to the next one.
    """
    require_transaction()
    group = public_id("lau")
    for row in rows:
        row.group = group
