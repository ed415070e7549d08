"""Polls of every kind of account: what is sold is kept, and what fails deletes nothing (P4, P5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from inventory import accounts
from inventory.models import Offer, PollRun, PricePoint, ProviderAccount
from inventory.providers.base import Capability, Provider, ResourceKind
from inventory.providers.errors import AuthFailed
from tests.contract.counterpart import Break, Counterpart
from tests.contract.stage import Stage, at

pytestmark = pytest.mark.django_db(transaction=True)

OWNED = {
    Capability.OWNED_VOLUMES: ResourceKind.VOLUME,
    Capability.OWNED_ADDRESSES: ResourceKind.ADDRESS,
    Capability.OWNED_NETWORKS: ResourceKind.NETWORK,
    Capability.OWNED_KEYS: ResourceKind.KEY,
}


def test_the_adapter_can_do_what_its_counterpart_is_asked_for(
    provider: Provider, counterpart: Counterpart
) -> None:
    assert provider.kind == counterpart.kind
    assert (Capability.PRICES in provider.capabilities) == counterpart.has_prices
    assert (Capability.AVAILABILITY in provider.capabilities) == counterpart.has_availability
    kinds = {kind for capability, kind in OWNED.items() if capability in provider.capabilities}
    assert counterpart.kinds == kinds | {ResourceKind.INSTANCE}
    assert (Capability.BUYABLE_CAPACITY in provider.capabilities) == counterpart.sells_capacity
    if Capability.COMMITTED_CAPACITY in provider.capabilities:
        assert counterpart.reservation_id


def test_the_connection_says_whose_it_is(account: ProviderAccount, stage: Stage) -> None:
    identity = accounts.test_connection(account_id=account.pk)
    assert identity.principal or identity.account
    for secret in stage.secrets:
        assert secret not in repr(identity)


def test_wrong_credentials_are_said_and_change_nothing(stage: Stage, counterpart: Counterpart) -> None:
    stage.poll_well(0)
    before = stage.catalog()
    accounts.set_credentials(
        account_id=stage.account.pk, credentials=counterpart.wrong_credentials(), actor=None, now=at(1)
    )
    with pytest.raises(AuthFailed) as refusal:
        accounts.test_connection(account_id=stage.account.pk)
    stage.readable(str(refusal.value))
    [run] = stage.poll(15)
    assert run.state == PollRun.State.FAILED
    stage.readable(run.error)
    assert stage.catalog() == before


def test_a_second_poll_writes_nothing(stage: Stage, counterpart: Counterpart) -> None:
    first = stage.poll_well(0)
    assert sum(run.offers_seen for run in first) > 0
    assert counterpart.region in {run.region.code for run in first if run.region}
    offer = stage.offer()
    assert (offer.price is not None) == counterpart.has_prices
    assert (offer.availability != Offer.Availability.UNKNOWN) == counterpart.has_availability

    before = stage.catalog()
    second = stage.poll_well(15)
    assert [(run.offers_written, run.prices_written) for run in second] == [(0, 0)] * len(second)
    assert stage.catalog() == before


@pytest.mark.needs(lambda counterpart: counterpart.has_prices)
def test_a_changed_price_keeps_the_old_one_with_its_period(stage: Stage, counterpart: Counterpart) -> None:
    counterpart.set_price(Decimal("24.00"))
    stage.poll_well(0)
    counterpart.set_price(Decimal("32.00"))
    [run] = [run for run in stage.poll_well(15) if run.prices_written]
    assert run.prices_written == 1

    offer = stage.offer()
    assert offer.price == Decimal("32.00")
    old, new = PricePoint.objects.filter(offer=offer).order_by("period")
    assert (old.price, new.price) == (Decimal("24.00"), Decimal("32.00"))
    assert at(0) <= old.period.lower < at(1)
    assert at(15) <= new.period.lower < at(16)
    assert (old.period.upper, new.period.upper) == (new.period.lower, None)


@pytest.mark.needs(lambda counterpart: counterpart.has_prices)
def test_an_impossible_price_is_said_and_the_last_one_stays(stage: Stage, counterpart: Counterpart) -> None:
    counterpart.set_price(Decimal("24.00"))
    stage.poll_well(0)
    before = stage.catalog()
    counterpart.set_price(Decimal("-8.00"))
    bad = [run for run in stage.poll(15) if run.state != PollRun.State.COMPLETE]
    assert bad
    for run in bad:
        stage.readable(run.error)
    assert stage.catalog() == before


@pytest.mark.needs(lambda counterpart: counterpart.has_availability)
def test_what_is_sold_out_is_seen(stage: Stage, counterpart: Counterpart) -> None:
    seen = []
    for number, available in enumerate((True, False, True)):
        counterpart.set_available(available)
        stage.poll_well(number * 15)
        seen.append(stage.offer().availability)
    available, sold_out = Offer.Availability.AVAILABLE, Offer.Availability.UNAVAILABLE
    assert seen == [available, sold_out, available]


@pytest.mark.each("breaks")
def test_a_broken_catalog_deletes_nothing(stage: Stage, counterpart: Counterpart, how: Break) -> None:
    stage.poll_well(0)
    before = stage.catalog()
    ProviderAccount.objects.update(poll_interval=timedelta(seconds=1))

    counterpart.break_catalog(how)
    runs = stage.poll(15)
    bad = [run for run in runs if run.state != PollRun.State.COMPLETE]
    assert bad
    for run in bad:
        stage.readable(run.error)
        assert (run.offers_written, run.prices_written) == (0, 0)
    assert stage.catalog() == before
    stage.account.refresh_from_db()
    assert stage.account.next_poll_at is not None
    if how == Break.THROTTLED and counterpart.retry_after is not None:
        assert stage.account.next_poll_at >= at(15) + timedelta(seconds=counterpart.retry_after)

    counterpart.mend()
    stage.poll_well(60)
    assert stage.catalog() == before
