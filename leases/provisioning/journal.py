"""The launch journal: no call without a committed intent, no second call before a listing (P1).

``PENDING``: no call is under way. ``CALLING``: one may be, or its answer was lost; then the
provider is asked for our token before anything else. Idempotency at the provider is used
where it exists and never relied on.

Intents of one lease that differ only in the node are launched in one call where the
provider can (:attr:`~inventory.providers.base.Capability.GROUP_LAUNCH`): all of them, or
none. They share one token, one claim and one outcome (:mod:`leases.provisioning.groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers import base
from inventory.providers.errors import BadAnswer, ProviderError
from leases.models import Allocation, Instance, LaunchIntent, LeaseNetwork
from leases.provisioning import images, networks, outcomes, upstream
from leases.provisioning.claims import Clock
from leases.provisioning.facts import RUNS, UNDER_WAY, UNUSABLE
from leases.provisioning.groups import SELECTED, ClaimedGroup, claim_next_group
from portal.accounts.models import Organization
from portal.common.ids import public_id

Capabilities = frozenset[base.Capability]
NOTHING_MORE: Capabilities = frozenset()


def launch_due(*, now: datetime) -> int:
    """Launch what is due and settle what is in doubt; return how many machines were recorded.

    Safe twice at once: a group that somebody works on is skipped.
    """
    clock, recorded = Clock(now), 0
    providers = upstream.Providers(clock)
    _wake_refused(now)
    due = _due(now)

    def together(account: ProviderAccount) -> bool:
        return base.Capability.GROUP_LAUNCH in providers.capabilities(account)

    while claimed := claim_next_group(due, clock=clock, together=together):
        recorded += _settle(claimed, providers, clock)
    return recorded


def _wake_refused(now: datetime) -> None:
    """Make due what waits for other credentials, where the account has other ones now."""
    waiting = LaunchIntent.objects.filter(state__in=UNDER_WAY, next_try_at__gt=now).exclude(refused_with="")
    for account in ProviderAccount.objects.filter(pk__in=waiting.values("account")):
        changed = waiting.filter(account=account).exclude(refused_with=upstream.fingerprint(account))
        changed.update(next_try_at=now)


def _due(now: datetime) -> QuerySet[LaunchIntent]:
    prepared = LeaseNetwork.objects.filter(
        lease=OuterRef("allocation__lease"),
        account=OuterRef("account"),
        region=OuterRef("allocation__node__region"),
        prepared_at__isnull=False,
        removed_at=None,
    )
    wanted = (
        Q(
            Exists(prepared),
            state=LaunchIntent.State.PENDING,
            allocation__lease__state__in=RUNS,
            allocation__period__contains=now,
        )
        & ~Q(allocation__lease__organization__state=Organization.State.SUSPENDED)
        & ~Q(allocation__node__health__in=UNUSABLE)
    )
    return (
        LaunchIntent.objects.filter(wanted | Q(state=LaunchIntent.State.CALLING), next_try_at__lte=now)
        .select_related(*SELECTED)
        .order_by("next_try_at", "pk")
    )


def _settle(claimed: ClaimedGroup, providers: upstream.Providers, clock: Clock) -> int:
    """Find the group's machines or launch them; return how many were recorded."""
    capabilities = NOTHING_MORE
    if claimed.was_called:
        try:
            with providers.of(claimed.account) as provider:
                found = provider.find(region=claimed.region, tag=base.TAG_TOKEN, value=claimed.group)
                capabilities = provider.capabilities
            if not found:
                _check_account(claimed, providers)
        except ProviderError as error:
            outcomes.still_in_doubt(claimed, error, clock)
            return 0
        known = _recorded(claimed.account, [machine.id for machine in found])
        if unknown := [machine for machine in found if machine.id not in known]:
            return outcomes.adopt(
                claimed, unknown, ends_together=base.Capability.ENDS_TOGETHER in capabilities, clock=clock
            )
        if known:
            # The rest of a launch that came in part: never the same call again.
            claimed = replace(claimed, group=public_id("lau"))
    wanted = _wanted(claimed, clock())
    if len(wanted) < len(claimed.rows):
        outcomes.set_aside(claimed, wanted=wanted, clock=clock)
        return 0
    try:
        with providers.of(claimed.account) as provider:
            capabilities = provider.capabilities
        to_launch = launch_group(claimed.rows, group=claimed.group, capabilities=capabilities)
        asked = {
            "group": claimed.group,
            "image": to_launch.image,
            "login_user": to_launch.login_user,
            "called_with": upstream.fingerprint(claimed.account),
            "upstream_account": providers.identity_if_known(claimed.account),
            "refused_with": "",
        }
        called_at = clock()
        if not claimed.extend(clock, called_at=called_at, **asked):
            return 0
        with providers.of(claimed.account) as provider:
            machines = _ids(claimed, provider.launch(to_launch))
    except ProviderError as error:
        outcomes.not_launched(
            claimed, error, ends_together=base.Capability.ENDS_TOGETHER in capabilities, clock=clock
        )
        return 0
    return outcomes.record(
        claimed,
        machines,
        launched_at=called_at,
        ends_together=base.Capability.ENDS_TOGETHER in capabilities,
        clock=clock,
    )


def _check_account(claimed: ClaimedGroup, providers: upstream.Providers) -> None:
    """Raise :class:`ProviderError` where the listing is by another account than the call was."""
    if now_as := providers.stranger(claimed.account, claimed.first):
        raise ProviderError(
            _(
                "The launch was called with credentials of %(before)s, and these are of %(now)s: enter "
                "the former ones, or look there for machines with the token %(token)s."
            )
            % {"before": claimed.first.upstream_account, "now": now_as, "token": claimed.group}
        )


def _recorded(account: ProviderAccount, ids: Sequence[str]) -> set[str]:
    known = Instance.objects.filter(account=account, provider_id__in=ids)
    return set(known.values_list("provider_id", flat=True))


def _ids(claimed: ClaimedGroup, launched: Sequence[base.LaunchedInstance]) -> list[str]:
    """Return the ids in their own order, so that the same answer always gives the same assignment.

    Raises :class:`BadAnswer` for a number that was not asked for, or an id that is recorded already.
    """
    ids = sorted({machine.id for machine in launched})
    if len(ids) != len(claimed.rows) or len(launched) != len(ids):
        raise BadAnswer(
            _("%(got)s machines in the answer to a launch of %(wanted)s.")
            % {"got": len(ids), "wanted": len(claimed.rows)}
        )
    if known := _recorded(claimed.account, ids):
        raise BadAnswer(
            _("The answer to a launch names %(id)s, which is recorded for an earlier one.")
            % {"id": ", ".join(sorted(known))}
        )
    return ids


def launch_group(
    rows: Sequence[LaunchIntent], *, group: str, capabilities: Capabilities = NOTHING_MORE
) -> base.LaunchGroup:
    """Return what to ask the provider for: the machines of these intents, which differ only in the node.

    A commitment's nodes come from its reservation and nothing else. One SSH key goes in by
    the key pair, several by user data (the key pair holds one). Raises
    :class:`ProviderError` for a commitment without the reservation to target, and for
    software that has no image there any more.
    """
    allocation = rows[0].allocation
    lease, node, commitment = allocation.lease, allocation.node, allocation.node.commitment
    assert lease is not None, "allocations with an intent belong to a lease"
    if commitment and not commitment.reservation_id and base.Capability.COMMITTED_CAPACITY in capabilities:
        raise ProviderError(
            _("Commitment %(uid)s has no reservation id: enter it, or the launch would be paid twice.")
            % {"uid": commitment.uid}
        )
    network = LeaseNetwork.objects.get(lease=lease, account=rows[0].account, region=node.region)
    keys = networks.public_keys(lease)
    image = images.image_for(lease=lease, node=node)
    return base.LaunchGroup(
        client_token=group,
        count=len(rows),
        instance_type=node.instance_type.name,
        region=node.region.code,
        zone=node.zone.code,
        node=node.name if len(rows) == 1 else "",
        image=image.reference,
        login_user=image.login_user,
        ssh_public_keys=() if len(keys) == 1 and network.key_name else keys,
        tags=upstream.machine_tags(lease, rows, group=group),
        reservation_id=(commitment.reservation_id or None) if commitment else None,
        firewall_id=network.firewall_id,
        key_name=network.key_name,
    )


def _wanted(claimed: ClaimedGroup, now: datetime) -> frozenset[int]:
    """Return the pks of the group's intents that are to be launched now."""
    allocations = (
        Allocation.objects.filter(
            intents__in=[row.pk for row in claimed.rows], lease__state__in=RUNS, period__contains=now
        )
        .exclude(lease__organization__state=Organization.State.SUSPENDED)
        .exclude(node__health__in=UNUSABLE)
    )
    wanted = set(allocations.values_list("pk", flat=True))
    return frozenset(row.pk for row in claimed.rows if row.allocation_id in wanted)
