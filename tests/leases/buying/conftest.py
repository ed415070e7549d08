"""A cloud that sells reservations and remembers what was bought; faults are planted by the tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from inventory.models import Offer, ProviderAccount
from inventory.providers.base import (
    AccountIdentity,
    Capability,
    CapacityOffering,
    CapacityRequest,
    Reservation,
)
from leases.buying import inquiries
from leases.models import CapacityInquiry
from leases.provisioning import upstream
from portal.accounts.models import User
from portal.common.crypto import encrypt
from tests.factories import H100, NOW, make_account, make_instance_type, make_region, make_user

_ids = itertools.count(1)


@dataclass
class Market:
    """What the provider sells and has sold; ``before`` and ``after`` hold errors of the next purchases."""

    capabilities = frozenset({Capability.BUYABLE_CAPACITY})
    offerings: list[CapacityOffering] = field(default_factory=list)
    sold: list[Reservation] = field(default_factory=list)
    before: list[Exception] = field(default_factory=list)
    after: list[Exception] = field(default_factory=list)
    unlisted: bool = False  # listings do not show what was sold
    asked: list[CapacityRequest] = field(default_factory=list)
    calls: int = 0
    owner: str = "123456789012"

    def test_connection(self) -> AccountIdentity:
        return AccountIdentity(self.owner)

    def capacity_offerings(self, request: CapacityRequest) -> Sequence[CapacityOffering]:
        self.asked.append(request)
        return [
            replace(
                offering,
                count=request.count,
                start=request.earliest,
                end=request.earliest + timedelta(hours=request.hours),
            )
            for offering in self.offerings
        ]

    def buy_capacity(
        self, offering: CapacityOffering, *, client_token: str, tags: Mapping[str, str]
    ) -> Reservation:
        self.calls += 1
        if self.before:
            raise self.before.pop(0)
        reservation = Reservation(
            id=f"cr-{next(_ids):08}",
            instance_type=offering.instance_type,
            region=offering.region,
            zone=offering.zone,
            count=offering.count,
            state="scheduled",
            raw_state="scheduled",
            start=offering.start,
            end=offering.end,
            cutoff=timedelta(minutes=30),
            total=offering.total,
            tags=dict(tags),
        )
        self.sold.append(reservation)
        if self.after:
            raise self.after.pop(0)
        return reservation

    def reservations(self, *, region: str) -> Sequence[Reservation]:
        return [] if self.unlisted else [each for each in self.sold if each.region == region]


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Market:
    found = Market()
    monkeypatch.setattr(upstream, "_connected", threading.local())
    monkeypatch.setattr(upstream.registry, "provider_for", lambda account: found)
    found.offerings = [
        CapacityOffering(
            id="cbo-1",
            instance_type="p5.48xlarge",
            region="us-east-1",
            zone="us-east-1a",
            count=4,
            start=NOW,
            end=NOW + timedelta(hours=1),
            total=Decimal("90000.00"),
            upfront=Decimal("90000.00"),
        )
    ]
    return found


@pytest.fixture
def account(db: None) -> ProviderAccount:
    made = make_account(credentials=encrypt({"key": "example"}))
    made.provider.kind = "aws"
    made.provider.save()
    return made


@pytest.fixture
def buyer(db: None) -> User:
    return make_user(is_staff=True, is_superuser=True)


@pytest.fixture
def offer(account: ProviderAccount) -> Offer:
    return Offer.objects.create(
        instance_type=make_instance_type(),
        region=make_region(),
        purchase=Offer.Purchase.ON_DEMAND,
        price=Decimal("55.04"),
        price_seen_at=NOW,
        zones=["us-east-1a"],
        first_seen_at=NOW,
        changed_at=NOW,
    )


def ask(buyer: User, *, gpus: int = 32, hours: int = 720) -> CapacityInquiry:
    return inquiries.ask(
        gpu_model=H100,
        gpus=gpus,
        hours=hours,
        start=NOW,
        end=NOW + timedelta(days=60),
        actor=buyer,
        now=NOW,
    )
