"""A lease's own firewall and key: made before any launch, removed after the last machine.

The adapter finds by name before it creates, so that preparing again after a crash
corrects what is there. What was made and never recorded is found by its tag.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q
from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers import base, naming
from inventory.providers.errors import ProviderError
from leases.models import Allocation, Lease, LeaseNetwork
from leases.provisioning import upstream
from leases.provisioning.claims import Claimed, Clock, backoff, claim_next, release
from leases.provisioning.facts import LIVE_MACHINE, OVER, RUNS, UNDER_WAY
from leases.provisioning.messages import DAILY, tell_staff
from portal.common.transactions import durable, require_transaction

log = logging.getLogger(__name__)

RETRY, RETRY_LONGEST = timedelta(seconds=20), timedelta(minutes=10)
# Staff are told once after so many failures in a row.
TELL_AFTER = 5


def ensure(*, lease: Lease, allocation: Allocation, now: datetime) -> LeaseNetwork:
    """Part: make the row for the allocation's account and region; ``prepare_due`` does the rest."""
    require_transaction()
    node = allocation.node
    network, _created = LeaseNetwork.objects.get_or_create(
        lease=lease,
        account=node.account,
        region=node.region,
        defaults={"created_at": now, "next_try_at": now},
    )
    return network


def prepare_due(*, now: datetime) -> int:
    """Make the firewalls and keys that leases wait for; return how many were made.

    Safe twice at once: a network that somebody prepares is skipped.
    """
    clock, made = Clock(now), 0
    providers = upstream.Providers(clock)
    rows = (
        LeaseNetwork.objects.filter(
            prepared_at=None, removed_at=None, next_try_at__lte=now, lease__state__in=RUNS
        )
        .select_related("lease", "account__provider", "region")
        .order_by("next_try_at", "pk")
    )
    while claimed := claim_next(rows, clock=clock, prepare=lambda row: {"attempts": F("attempts") + 1}):
        try:
            network = _prepare(claimed.row, providers)
        except ProviderError as error:
            _failed(claimed, error, clock)
        else:
            made += _prepared(claimed, network, clock)
    return made


def _prepare(row: LeaseNetwork, providers: upstream.Providers) -> base.LeaseNetwork:
    # Delivery means that we got in ourselves, so our own address may, where that is how it is tested.
    ours = settings.SUBLET_PROBE_ADDRESSES if row.account.delivery_probe == ProviderAccount.Probe.SSH else ()
    request = base.LeaseNetworkRequest(
        lease=row.lease.uid,
        region=row.region.code,
        ssh_cidrs=(*row.lease.allowed_addresses, *ours),
        ssh_public_keys=public_keys(row.lease),
        tags=upstream.lease_tags(row.lease),
    )
    with providers.of(row.account) as provider:
        if provider.capabilities.isdisjoint({base.Capability.FIREWALL, base.Capability.KEY_PAIRS}):
            return base.LeaseNetwork(region=row.region.code, firewall_id="", key_name="")
        return provider.prepare_lease(request)


def public_keys(lease: Lease) -> tuple[str, ...]:
    """Return the lease's SSH public keys, oldest first, so that the key pair's one is stable."""
    return tuple(lease.ssh_keys.order_by("pk").values_list("public_key", flat=True))


def _prepared(claimed: Claimed[LeaseNetwork], network: base.LeaseNetwork, clock: Clock) -> bool:
    with durable():
        row = claimed.still_ours()
        if row is None:
            return False
        row.firewall_id, row.key_name = network.firewall_id, network.key_name
        row.prepared_at, row.last_error, row.attempts = clock(), "", 0
        release(row)
        row.save()
        return True


def remove_due(*, now: datetime) -> int:
    """Remove networks of leases that are over and have no machine left; return how many went.

    A firewall that is still in use is retried until it is gone.
    """
    clock, removed = Clock(now), 0
    providers = upstream.Providers(clock)
    allocations = Allocation.objects.filter(
        lease=OuterRef("lease"), node__account=OuterRef("account"), node__region=OuterRef("region")
    )
    busy = allocations.filter(Q(instances__state__in=LIVE_MACHINE) | Q(intents__state__in=UNDER_WAY))
    rows = (
        LeaseNetwork.objects.filter(
            ~Exists(busy), removed_at=None, next_try_at__lte=now, lease__state__in=OVER
        )
        .select_related("lease", "account__provider", "region")
        .order_by("next_try_at", "pk")
    )
    while claimed := claim_next(rows, clock=clock, prepare=lambda row: {"attempts": F("attempts") + 1}):
        try:
            _remove(claimed.row, providers)
        except ProviderError as error:
            _failed(claimed, error, clock)
        else:
            removed += _removed(claimed, clock)
    return removed


def _remove(row: LeaseNetwork, providers: upstream.Providers) -> None:
    """Remove what is recorded; where nothing is, whatever carries the lease's tags: an answer was lost."""
    region, tags = row.region.code, upstream.lease_tags(row.lease)
    with providers.of(row.account) as provider:
        if row.prepared_at is not None:
            if row.firewall_id or row.key_name:
                provider.remove_network(
                    base.LeaseNetwork(region=region, firewall_id=row.firewall_id, key_name=row.key_name)
                )
            return
        for resource in provider.list_owned(region=region):
            ours = all(naming.matches(resource.tags, tag, value) for tag, value in tags.items())
            if ours and resource.kind in (base.ResourceKind.NETWORK, base.ResourceKind.KEY):
                provider.remove(resource)


def _removed(claimed: Claimed[LeaseNetwork], clock: Clock) -> bool:
    with durable():
        row = claimed.still_ours()
        if row is None:
            return False
        row.removed_at, row.last_error = clock(), ""
        release(row)
        row.save()
        return True


def _failed(claimed: Claimed[LeaseNetwork], error: ProviderError, clock: Clock) -> None:
    log.warning("lease_network_failed", extra={"network": claimed.row.pk, "error": str(error)})
    with durable():
        row = claimed.still_ours()
        if row is None:
            return
        row.last_error = str(error)
        row.next_try_at = clock() + backoff(row.attempts, base=RETRY, longest=RETRY_LONGEST)
        release(row)
        row.save()
        if row.attempts >= TELL_AFTER or not error.retryable:
            tell_staff(
                kind="lease.network_failing",
                subject_type="lease",
                subject_id=claimed.row.lease.uid,
                now=clock(),
                after={"account": claimed.row.account.name, "region": claimed.row.region.code},
                message=_("The lease's firewall or key cannot be set up or removed: %(error)s")
                % {"error": error},
                quiet=DAILY,
            )
