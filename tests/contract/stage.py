"""The stage of a contract scenario: an account on a counterpart, leases on it, and a clock that we move."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Self

from django.db import transaction

from billing.auditing import run_all
from inventory.catalog import DATA, load_facts
from inventory.models import GpuModel, InstanceType, Offer, PollRun, PricePoint, ProviderAccount, Zone
from inventory.polling import poll_account
from inventory.providers.base import TAG_ALLOCATION, TAG_LEASE, TAG_SITE, TAG_TOKEN, ResourceKind
from leases.models import Instance, Lease
from leases.provisioning import sweep, upstream
from leases.provisioning.claims import LISTING_LAG
from leases.provisioning.facts import LIVE_MACHINE, RUNS
from portal.common.crypto import encrypt
from portal.common.ids import public_id
from tests.contract.counterpart import Counterpart
from tests.factories import (
    H100,
    Fleet,
    make_account,
    make_fleet,
    make_instance_type,
    make_lease,
    make_organization,
    make_provider,
    make_ssh_key,
)

# Leases began half an hour ago by the database's clock, which the audit reads.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
END = START + timedelta(hours=24)
BOOKED = START - timedelta(days=1)
# When a listing cannot lag behind a launch of the first minute any more.
AFTER_LAG = 1 + LISTING_LAG.total_seconds() / 60 + 1
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v"
ALLOWED = "203.0.113.0/24"


def at(minutes: float) -> datetime:
    """Return the moment so many minutes after the leases' start."""
    return START + timedelta(minutes=minutes)


@cache
def shipped(name: str, *key: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows of a file of the shipped catalog by the values of some columns."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return {tuple(row[column] for column in key): row for row in csv.DictReader(file)}


def make_type(kind: str, name: str, gpus: int) -> InstanceType:
    """Return the instance type as it ships, or one with so many H100s where it does not."""
    row = shipped("instance_types.csv", "provider", "instance_type").get((kind, name))
    slug = row["gpu_model"] if row else H100
    model = shipped("gpu_models.csv", "slug")[(slug,)]
    facts = {field: model[field] for field in ("name", "vendor", "memory_gib", "family")}
    GpuModel.objects.get_or_create(slug=slug, defaults=facts)
    return make_instance_type(
        provider=make_provider(slug=kind, kind=kind).slug,
        name=name,
        gpu_model=slug,
        gpus_per_node=int(row["gpus_per_node"]) if row else gpus,
    )


def after_end(minutes: float) -> datetime:
    return END + timedelta(minutes=minutes)


@dataclass
class Stage:
    """One account at a counterpart, and a commitment of two nodes there as soon as somebody books."""

    counterpart: Counterpart
    account: ProviderAccount
    instance_type: InstanceType
    secrets: tuple[str, ...]
    strangers: set[str] = field(default_factory=set)
    _knows_facts: bool = False
    _fleet: Fleet | None = None

    @classmethod
    def of(cls, counterpart: Counterpart) -> Self:
        kind = counterpart.kind
        instance_type = make_type(kind, counterpart.instance_type, counterpart.gpus)
        fields = dict(counterpart.account_fields())
        credentials: dict[str, str] = dict(fields.pop("credentials"))
        account = make_account(
            provider=kind,
            name=f"{kind} account",
            credentials=encrypt(credentials),
            delivery_probe=ProviderAccount.Probe.PROVIDER_STATUS,
            **fields,
        )
        wrong = counterpart.wrong_credentials()
        secrets = {*credentials.values(), *(value for value in wrong.values() if value)}
        return cls(counterpart, account, instance_type, tuple(value for value in secrets if len(value) > 7))

    # --- the catalog

    def poll(self, minutes: float = 0) -> list[PollRun]:
        """Poll the account once, with the shipped catalog; at least one run comes of it."""
        if not self._knows_facts:
            with transaction.atomic():
                load_facts()
            self._knows_facts = True
        runs = poll_account(account_id=self.account.pk, now=at(minutes))
        assert runs, "somebody polls this account, or it is disabled"
        return runs

    def poll_well(self, minutes: float = 0) -> list[PollRun]:
        """Poll the account; every region is read completely."""
        runs = self.poll(minutes)
        assert [(run.state, run.error) for run in runs] == [("complete", "")] * len(runs)
        return runs

    def offer(self) -> Offer:
        """Return the on-demand offer that the counterpart sells for certain."""
        return Offer.objects.get(
            instance_type=self.instance_type,
            region__code=self.counterpart.region,
            purchase=Offer.Purchase.ON_DEMAND,
        )

    def catalog(self) -> list[Any]:
        """Return everything that polls have stored, row by row."""
        return [*Offer.objects.order_by("pk").values(), *PricePoint.objects.order_by("pk").values()]

    # --- leases and their machines

    def book(self, *, nodes: int = 1) -> Lease:
        """Return a lease on committed nodes whose term has begun and which nobody has started yet."""
        region = f"{self.counterpart.kind}/{self.counterpart.region}"
        if self._fleet is None:
            self._fleet = make_fleet(
                nodes=2,
                account=self.account,
                region=region,
                instance_type=self.instance_type,
                reservation_id=self.counterpart.reservation_id,
            )
            Zone.objects.filter(pk=self._fleet.commitment.zone_id).update(code=self.counterpart.zone)
        organization = make_organization()
        key = make_ssh_key(organization=organization)
        key.public_key = ED25519
        key.save()
        return make_lease(
            organization=organization,
            gpu_model=self.instance_type.gpu_model.slug,
            gpus_per_node=self.instance_type.gpus_per_node,
            region=region,
            nodes=nodes,
            now=BOOKED,
            start=START,
            end=END,
            ssh_keys=[key],
            allowed_addresses=[ALLOWED],
        )

    def begin(self, lease: Lease) -> None:
        """Start the lease and make its first launch call, in its first minute."""
        sweep.start_due(now=at(1))
        sweep.launch_due(now=at(1))
        lease.refresh_from_db()

    def run(self, lease: Lease, *, first: float = 2, last: float = 60) -> float:
        """Sweep every few minutes until the lease is active; return the minute in which it was."""
        minutes = first
        while minutes <= last:
            sweep.start_due(now=at(minutes))
            sweep.launch_due(now=at(minutes))
            self.counterpart.finish_booting()
            sweep.probe_due(now=at(minutes + 1))
            lease.refresh_from_db()
            waiting = lease.allocations.filter(delivered=None, period__contains=at(minutes + 1)).exists()
            if lease.state == Lease.State.ACTIVE and not waiting:
                return minutes + 1
            minutes += 4
        raise AssertionError(f"{lease.state} after {last} minutes: {self.launch_errors(lease)}")

    def activate(self, lease: Lease) -> float:
        """Bring a fresh lease to its running state."""
        self.begin(lease)
        return self.run(lease)

    def end(self, *, first: float = 0, last: float = 60) -> int:
        """End the leases whose term is over; return how many turnovers were completed."""
        minutes, completed = first, 0
        while minutes <= last:
            sweep.end_due(now=after_end(minutes))
            completed += sweep.turnover_due(now=after_end(minutes))
            self.counterpart.finish_ending()
            if not Lease.objects.filter(state__in=(*RUNS, Lease.State.ENDING)).exists() and minutes > first:
                return completed
            minutes += 6
        raise AssertionError(f"not ended after {last} minutes")

    def machines(self, lease: Lease) -> list[Instance]:
        """Return the lease's machines that live as far as we know."""
        return list(Instance.objects.filter(allocation__lease=lease, state__in=LIVE_MACHINE).order_by("pk"))

    def running(self) -> set[str]:
        """Return the ids of all machines upstream but the strangers."""
        return set(self.counterpart.running()) - self.strangers

    def launch_errors(self, lease: Lease) -> list[str]:
        return [intent.last_error for item in lease.allocations.all() for intent in item.intents.all()]

    # --- things that no launch of ours made

    def our_tags(self, *, site: str = "", kind: ResourceKind = ResourceKind.INSTANCE) -> dict[str, str]:
        """Return the tags of a machine (or of a lease's network) that nobody has recorded."""
        tags = {TAG_SITE: site or upstream.site_id(), TAG_LEASE: public_id("lse")}
        if kind not in (ResourceKind.NETWORK, ResourceKind.KEY):
            tags |= {TAG_ALLOCATION: "987654321", TAG_TOKEN: public_id("lau")}
        return tags

    def add_stranger(self, tags: dict[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        made = self.counterpart.add_stranger(tags, kind)
        if kind == ResourceKind.INSTANCE:
            self.strangers.add(made)
        return made

    # --- afterwards

    def readable(self, text: str) -> None:
        """Assert that staff can read this, and that it tells nobody a secret."""
        assert 10 < len(text) < 1_500
        for noise in ("Traceback", "<html", "<!doctype", "unexpectedly", "object at 0x"):
            assert noise not in text
        for secret in self.secrets:
            assert secret not in text

    def check(self) -> None:
        """Assert every invariant of ``manage.py audit``, and that what runs is what is recorded."""
        wrong = {outcome.id: outcome.examples for outcome in run_all() if outcome.violations}
        assert wrong == {}
        recorded = Instance.objects.filter(state__in=LIVE_MACHINE).values_list("provider_id", flat=True)
        assert self.running() == set(recorded)
