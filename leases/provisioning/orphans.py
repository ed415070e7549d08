"""Orphans: what carries our site's tag upstream and is not the recorded resource of a lease (P2).

An orphan is reported when it is first seen, and removed after a grace unless staff have
explained it. Launches that are under way are given time, and so is a machine that was
recorded as lost and came back: it holds the data of a customer whose lease still runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext as _

from inventory.models import Node, ProviderAccount
from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, TAG_SITE, TAG_TOKEN, OwnedResource, ResourceKind
from inventory.providers.errors import ProviderError
from leases.models import Instance, LaunchIntent, LeaseNetwork, Orphan
from leases.provisioning import upstream
from leases.provisioning.claims import LISTING_LAG, Claimed, Clock, backoff, claim_next, release
from leases.provisioning.facts import LIVE_MACHINE, RUNS, UNDER_WAY
from leases.provisioning.messages import DAILY, tell_staff
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput
from portal.common.nudge import nudge
from portal.common.transactions import durable

log = logging.getLogger(__name__)

RETRY, RETRY_LONGEST = timedelta(minutes=1), timedelta(minutes=30)
# More machines than this at once look like a restored database or a wrong tag, not like
# orphans: none is removed until staff have explained or removed some.
MACHINES_AT_ONCE = 10


def grace() -> timedelta:
    """Return how long an orphan is only reported."""
    return timedelta(minutes=settings.SUBLET_ORPHAN_GRACE_MINUTES)


def find_orphans(*, now: datetime) -> int:
    """Compare every account and region with what is recorded; return how many orphans are new.

    Also removes the orphans whose grace is over. Safe twice at once: an orphan has one
    row, whoever finds it. A listing that fails changes nothing.
    """
    clock, new = Clock(now), 0
    providers = upstream.Providers(clock)
    accounts = ProviderAccount.objects.exclude(provider__kind="").exclude(credentials=None)
    for account in accounts.select_related("provider").order_by("pk"):
        for region in _regions(account, providers):
            asked_at = clock()
            try:
                with providers.of(account) as provider:
                    listed = list(provider.list_owned(region=region))
            except ProviderError as error:
                log.warning(
                    "list_owned_failed",
                    extra={"account": account.name, "region": region, "error": str(error)},
                )
                continue
            new += _compare(account, region, listed, asked_at, clock)
            _look_at_missing(account, region, listed, asked_at)
    _remove_due(providers, clock)
    return new


def _regions(account: ProviderAccount, providers: upstream.Providers) -> list[str]:
    """Return the account's regions at the provider, and those where we have anything."""
    codes = set(Node.objects.filter(account=account).values_list("region__code", flat=True))
    codes |= set(LeaseNetwork.objects.filter(account=account).values_list("region__code", flat=True))
    try:
        with providers.of(account) as provider:
            codes |= {region.code for region in provider.regions()}
    except ProviderError as error:
        log.warning("regions_failed", extra={"account": account.name, "error": str(error)})
    return sorted(codes)


def _compare(
    account: ProviderAccount, region: str, listed: Iterable[OwnedResource], asked_at: datetime, clock: Clock
) -> int:
    site, new, seen = upstream.site_id(), 0, set[tuple[str, str]]()
    ours = [resource for resource in listed if naming.matches(resource.tags, TAG_SITE, site)]
    # Read after the listing: what was recorded meanwhile is not an orphan.
    records = Records(account, ours)
    for resource in ours:
        reason = records.why_orphan(resource)
        if reason:
            seen.add((resource.kind.value, resource.id))
            new += _report(account, resource, reason, asked_at, clock())
    with durable():
        gone = Orphan.objects.filter(account=account, region_code=region, state=Orphan.State.SEEN)
        for orphan in gone.select_for_update(no_key=True, skip_locked=True, of=("self",)):
            if (orphan.kind, orphan.resource_id) not in seen:
                orphan.state = Orphan.State.GONE
                orphan.save(update_fields=["state"])
    return new


def _look_at_missing(
    account: ProviderAccount, region: str, listed: Iterable[OwnedResource], asked_at: datetime
) -> None:
    """Have the probe look at once for recorded machines that the listing lacks: it decides when one is lost."""
    ids = [resource.id for resource in listed if resource.kind == ResourceKind.INSTANCE]
    missing = Instance.objects.filter(
        account=account,
        allocation__node__region__code=region,
        state__in=LIVE_MACHINE,
        launched_at__lt=asked_at - LISTING_LAG,
    ).exclude(provider_id__in=ids)
    if missing.update(next_probe_at=asked_at):
        log.warning("machines_missing", extra={"account": account.name, "region": region})
        nudge("leases.tasks.probe_due")


class Records:
    """What we have recorded about listed resources of one account, read in a few statements."""

    def __init__(self, account: ProviderAccount, resources: Iterable[OwnedResource]) -> None:
        listed = list(resources)
        tokens = {resource.tags.get(TAG_TOKEN, "") for resource in listed}
        leases = {resource.tags.get(TAG_LEASE, "") for resource in listed}
        machines = [resource.id for resource in listed if resource.kind == ResourceKind.INSTANCE]
        # Two of our accounts may hold credentials of the same one upstream, and list each other's machines.
        instances = Instance.objects.filter(account__provider=account.provider_id, provider_id__in=machines)
        self.machines = dict(instances.order_by("pk").values_list("provider_id", "state"))
        intents = LaunchIntent.objects.filter(group__in=tokens)
        self.groups = set(intents.values_list("group", flat=True))
        self.under_way = set(intents.filter(state__in=UNDER_WAY).values_list("group", flat=True))
        alive = intents.filter(instance__state__in=LIVE_MACHINE)
        self.alive = set(alive.values_list("group", flat=True))
        self.networks: dict[tuple[str, str], list[LeaseNetwork]] = {}
        networks = LeaseNetwork.objects.filter(
            account__provider=account.provider_id, lease__uid__in=leases, removed_at=None
        )
        for network in networks.select_related("lease", "region"):
            self.networks.setdefault((network.lease.uid, network.region.code), []).append(network)

    def why_orphan(self, resource: OwnedResource) -> str:
        """Return why nobody owns the resource, or "" when it is recorded or may be any moment."""
        if resource.kind in (ResourceKind.NETWORK, ResourceKind.KEY):
            for network in self.networks.get((resource.tags.get(TAG_LEASE, ""), resource.region), ()):
                if network.prepared_at is None or resource.id in (network.firewall_id, network.key_name):
                    return ""
            return _("No lease of ours uses it.")
        if resource.kind == ResourceKind.INSTANCE and resource.id in self.machines:
            live = self.machines[resource.id] in LIVE_MACHINE
            return "" if live else _("Ended or lost in our records, and still there.")
        token = resource.tags.get(TAG_TOKEN, "")
        if token not in self.groups:
            return _("No launch of ours carries its token.")
        if token in self.under_way:
            return ""  # the journal lists by this token before it calls again
        if resource.kind == ResourceKind.INSTANCE:
            return _("One machine more than its launch was for.")
        return "" if token in self.alive else _("Left behind by a machine that has ended.")


def _report(
    account: ProviderAccount, resource: OwnedResource, reason: str, asked_at: datetime, now: datetime
) -> bool:
    """Record an orphan, or that it is still there; return whether it is new."""
    with durable():
        orphan, new = Orphan.objects.select_for_update(no_key=True, of=("self",)).get_or_create(
            account=account,
            region_code=resource.region,
            kind=resource.kind.value,
            resource_id=resource.id,
            defaults={
                "tags": dict(resource.tags),
                "reason": reason,
                "first_seen_at": now,
                "last_seen_at": now,
                "next_try_at": now,
            },
        )
        if orphan.state == Orphan.State.GONE:
            orphan.state, orphan.first_seen_at, new = Orphan.State.SEEN, now, True
        elif orphan.state == Orphan.State.REMOVED:
            if orphan.removed_at and orphan.removed_at > asked_at - LISTING_LAG:
                return False  # the listing is older than the removal, or has not heard of it
            orphan.state = Orphan.State.SEEN  # it did not work: try again
        orphan.last_seen_at, orphan.reason = now, reason
        orphan.save()
        if new:
            tell_staff(
                kind="orphan.seen",
                subject_type="orphan",
                subject_id=str(orphan.pk),
                now=now,
                after={"kind": orphan.kind, "resource": orphan.resource_id, "account": account.name},
                message=_("%(kind)s %(id)s costs money and serves nobody: %(reason)s")
                % {"kind": orphan.kind, "id": orphan.resource_id, "reason": reason},
            )
    return new


def _remove_due(providers: upstream.Providers, clock: Clock) -> int:
    due = Orphan.objects.filter(
        state=Orphan.State.SEEN, first_seen_at__lte=clock.start - grace(), next_try_at__lte=clock.start
    )
    spared, removed = _accounts_with_too_many(due, clock), 0
    rows = (
        due.exclude(kind=ResourceKind.INSTANCE.value, account__in=spared)
        .select_related("account__provider")
        .order_by("next_try_at", "pk")
    )
    while claimed := claim_next(rows, clock=clock, prepare=lambda row: {"attempts": F("attempts") + 1}):
        removed += _remove(claimed, providers, clock)
    return removed


def _accounts_with_too_many(due: QuerySet[Orphan], clock: Clock) -> list[int]:
    spared = []
    for account in ProviderAccount.objects.order_by("pk"):
        count = due.filter(account=account, kind=ResourceKind.INSTANCE.value).count()
        if count <= MACHINES_AT_ONCE:
            continue
        spared.append(account.pk)
        with durable():
            tell_staff(
                kind="orphan.too_many",
                subject_type="provider_account",
                subject_id=str(account.pk),
                now=clock(),
                after={"machines": count},
                message=_(
                    "%(account)s has %(count)s machines with our tag that nobody recorded. "
                    "None is removed by itself: was the database restored? Explain or remove them."
                )
                % {"account": account, "count": count},
                quiet=DAILY,
            )
    return spared


def _remove(claimed: Claimed[Orphan], providers: upstream.Providers, clock: Clock) -> bool:
    orphan = claimed.row
    resource = OwnedResource(
        kind=ResourceKind(orphan.kind), id=orphan.resource_id, region=orphan.region_code, tags=orphan.tags
    )
    error: ProviderError | None = None
    kept = (
        _keeps_data(orphan)
        or _ends_others(orphan)
        or not Records(orphan.account, [resource]).why_orphan(resource)
    )
    if not kept:
        try:
            with providers.of(orphan.account) as provider:
                provider.remove(resource)
        except ProviderError as failure:
            error = failure
    with durable():
        row = claimed.still_ours()
        if row is None:
            return False
        release(row)
        row.last_error = str(error or "")
        if kept or error:
            row.next_try_at = clock() + backoff(row.attempts, base=RETRY, longest=RETRY_LONGEST)
            row.save()
            return False
        row.state, row.removed_at = Orphan.State.REMOVED, clock()
        row.save()
        tell_staff(
            kind="orphan.removed",
            subject_type="orphan",
            subject_id=str(row.pk),
            now=clock(),
            after={"kind": row.kind, "resource": row.resource_id},
            message=_("%(kind)s %(id)s was removed: nobody owned it.")
            % {"kind": row.kind, "id": row.resource_id},
        )
        return True


def _keeps_data(orphan: Orphan) -> bool:
    """Tell whether it is (a disk of) a machine that was delivered, recorded as lost, and whose lease runs."""
    return Instance.objects.filter(
        Q(provider_id=orphan.resource_id) | Q(intent__group=orphan.tags.get(TAG_TOKEN, "")),
        account__provider=orphan.account.provider_id,
        state=Instance.State.LOST,
        ready_at__isnull=False,
        allocation__lease__state__in=RUNS,
    ).exists()


def _ends_others(orphan: Orphan) -> bool:
    """Tell whether removing it could end machines of its group that are recorded and run."""
    return Instance.objects.filter(
        account__provider=orphan.account.provider_id,
        intent__group=orphan.tags.get(TAG_TOKEN, ""),
        intent__ends_together=True,
        state__in=LIVE_MACHINE,
    ).exists()


def explain(*, orphan_id: int, note: str, actor: User, now: datetime) -> Orphan:
    """Keep an orphan, with the reason why it may stay.

    Raises :class:`InvalidInput` without a note, and :class:`Conflict` once it was removed.
    """
    if not note.strip():
        raise InvalidInput(_("Say why it may stay."), field="note")
    with durable():
        orphan = Orphan.objects.select_for_update(no_key=True, of=("self",)).get(pk=orphan_id)
        if orphan.state not in (Orphan.State.SEEN, Orphan.State.EXPLAINED):
            raise Conflict(_("It is not there any more: there is nothing to explain."))
        before, orphan.state, orphan.note = orphan.state, Orphan.State.EXPLAINED, note.strip()[:200]
        orphan.save(update_fields=["state", "note"])
        events.record(
            kind="orphan.explained",
            subject_type="orphan",
            subject_id=str(orphan.pk),
            now=now,
            actor=actor,
            before={"state": before},
            after={"state": orphan.state, "note": orphan.note},
            message=orphan.note,
        )
        return orphan
