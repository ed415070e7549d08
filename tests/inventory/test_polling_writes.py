"""What a poll writes: the difference and nothing else, whoever else tells about the same offers."""

from __future__ import annotations

import io
import random
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection

from inventory.audit import CHECKS
from inventory.fleet import freshness
from inventory.models import Offer, PollRun, Provider, ProviderAccount
from inventory.polling import poll_account
from inventory.prices import OfferRow, Teller, write_offers
from inventory.providers.base import Availability, PurchaseOption
from inventory.providers.errors import TimedOut
from inventory.rate_cards import import_prices
from tests.inventory.conftest import make_account
from tests.inventory.fake_cloud import catalog, offer, stored, the_offer

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
P5, P4 = "p5.48xlarge", "p4d.24xlarge"


def versions() -> dict[str, list[tuple]]:
    """Return which transaction wrote each row, and where it lies: any write would change one."""
    found = {}
    with connection.cursor() as cursor:
        for table in ("inventory_offer", "inventory_pricepoint", "inventory_instancetype", "inventory_zone"):
            cursor.execute(f"SELECT id, xmin::text, xmax::text, ctid::text FROM {table} ORDER BY id")
            found[table] = cursor.fetchall()
    return found


@pytest.mark.django_db(transaction=True)
def test_an_unchanged_poll_touches_no_row(account, now):
    poll_account(account_id=account.pk, now=now)
    before = versions()
    for hours in (1, 2):
        (run,) = poll_account(account_id=account.pk, now=now + hours * HOUR)
        assert (run.state, run.offers_written, run.prices_written) == ("complete", 0, 0)
    assert versions() == before


@pytest.mark.django_db(transaction=True)
def test_a_changed_price_touches_its_own_rows_alone(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    before = versions()
    cloud.answers["us-east-1"] = catalog(offer(price="60"), offer(P4, "21.95"))
    poll_account(account_id=account.pk, now=now + HOUR)
    touched = set(versions()["inventory_offer"]) - set(before["inventory_offer"])
    assert [row[0] for row in touched] == [the_offer().pk]
    assert len(set(versions()["inventory_pricepoint"]) - set(before["inventory_pricepoint"])) == 2


def test_a_whole_market_appears_changes_and_goes(account, cloud, now):
    """The same answer in other orders and sizes ends in the same rows."""
    options = (PurchaseOption.ON_DEMAND, PurchaseOption.SPOT, PurchaseOption.RESERVED)

    def market(price: str, names=(P5, P4), kinds=options):
        return catalog(*[offer(name, price, purchase_option=kind) for name in names for kind in kinds])

    for hours, answer, seen in (
        (0, market("10"), 6),
        (1, market("11", names=(P4, P5)), 6),
        (2, market("11", kinds=options[:1]), 2),
        (3, market("12"), 6),
    ):
        cloud.answers["us-east-1"] = answer
        (run,) = poll_account(account_id=account.pk, now=now + hours * HOUR)
        assert (run.state, run.offers_seen) == ("complete", seen)
        here = Offer.objects.filter(region=run.region)
        assert here.filter(availability="available").count() == seen
        assert here.exclude(availability="available").count() == 6 - seen
        assert [check.outcome().examples for check in CHECKS] == [[], []]


def test_hostile_zone_names_are_stored_as_they_are(account, cloud, now):
    zones = ('a"b', "back\\slash", "comma,brace}{", "\\N", "NULL", "tab space")
    cloud.answers["us-east-1"] = catalog(offer(zones=zones), offer(P4, "21.95", zones=()))
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.state == "complete"
    assert the_offer().zones == sorted(zones)
    assert the_offer(name=P4).zones == []


# --- two accounts of one provider -------------------------------------------------------------


@pytest.fixture
def second(account) -> ProviderAccount:
    return make_account("fake", slug="aws", name="second")


def both(first, second, now, hours):
    for account in (first, second):
        poll_account(account_id=account.pk, now=now + hours * HOUR)


def test_two_accounts_that_see_different_prices_do_not_flap(account, second, cloud, now):
    prices = {account.pk: "55.04", second.pk: "49.00"}
    zones = {account.pk: ("us-east-1a",), second.pk: ("us-east-1c",)}  # names of zones differ by account
    for hours in range(4):
        for pk, price in prices.items():
            cloud.answers["us-east-1"] = catalog(offer(price=price, zones=zones[pk]), offer(P4, "21.95"))
            poll_account(account_id=pk, now=now + hours * HOUR)
    found = the_offer()
    assert (found.account, found.price, found.zones) == (account, Decimal("55.04"), ["us-east-1a"])
    assert found.price_points.count() == 1
    late = PollRun.objects.filter(started_at__gte=now + HOUR)
    assert {(run.state, run.offers_written, run.prices_written) for run in late} == {("complete", 0, 0)}


def test_an_offer_is_in_stock_where_one_account_sees_it_in_stock(account, second, cloud, now):
    def sees(pk, availability, hours):
        cloud.answers["us-east-1"] = catalog(offer(availability=availability), offer(P4, "21.95"))
        poll_account(account_id=pk, now=now + hours * HOUR)
        found = the_offer()
        return found.availability, found.account_id

    out, there = Availability.UNAVAILABLE, Availability.AVAILABLE
    assert sees(account.pk, out, 0) == ("unavailable", account.pk)
    assert sees(second.pk, there, 0.1) == ("available", second.pk)
    assert sees(account.pk, out, 0.2) == ("available", second.pk)
    assert sees(second.pk, there, 0.3) == ("available", second.pk)
    assert sees(account.pk, there, 0.4) == ("available", second.pk)
    assert sees(second.pk, out, 0.5) == ("unavailable", second.pk)
    assert sees(account.pk, there, 0.6) == ("available", account.pk)
    assert sees(second.pk, Availability.UNKNOWN, 0.7) == ("available", account.pk)


def test_what_one_account_alone_sees_stays_until_it_no_longer_does(account, second, cloud, now):
    everything, half = catalog(offer(), offer(P4, "21.95")), catalog(offer())
    cloud.answers["us-east-1"] = everything
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = half
    poll_account(account_id=second.pk, now=now)
    assert the_offer(name=P4).availability == "available"
    poll_account(account_id=account.pk, now=now + HOUR)
    assert the_offer(name=P4).availability == "unavailable"


def test_a_silent_account_s_offers_are_taken_over_and_their_age_is_honest(account, second, cloud, now):
    both(account, second, now, 0)
    good = cloud.answers["us-east-1"]
    for hours in (1, 2, 3):
        cloud.answers["us-east-1"] = TimedOut("No answer.")
        poll_account(account_id=account.pk, now=now + hours * HOUR)
        cloud.answers["us-east-1"] = catalog(offer(price="60"))
        (run,) = poll_account(account_id=second.pk, now=now + hours * HOUR)
        shown, other = the_offer(), the_offer(name=P4)
        ages = freshness([shown, other])
        if shown.account_id == second.pk:
            assert ages[shown.pk].polled_at == run.finished_at
        else:
            assert ages[shown.pk].polled_at < now + HOUR
        # What the second does not list it knows nothing about: it stays, and its age says how old it is.
        assert other.availability == "available"
        assert ages[other.pk].polled_at < now + HOUR
    assert (the_offer().account, the_offer().price) == (second, Decimal(60))

    cloud.answers["us-east-1"] = good
    (run,) = poll_account(account_id=account.pk, now=now + 3.5 * HOUR)
    assert (run.offers_written, run.prices_written) == (0, 0)  # the other one tells about it now


def test_a_disabled_account_s_offers_are_taken_over_or_withdrawn(account, second, cloud, now):
    both(account, second, now, 0)
    ProviderAccount.objects.filter(pk=account.pk).update(enabled=False)
    cloud.answers["us-east-1"] = catalog(offer())
    poll_account(account_id=second.pk, now=now + HOUR)
    assert the_offer().account == second
    assert (the_offer(name=P4).availability, the_offer(name=P4).account) == ("unavailable", second)


# --- beside rate cards -----------------------------------------------------------------------------


def test_a_rate_card_changes_no_signal_and_a_poll_without_prices_no_price(account, cloud, now, monkeypatch):
    monkeypatch.setattr(cloud, "capabilities", frozenset())
    cloud.answers["us-east-1"] = catalog(offer(price=None), offer(P4, None))
    (run,) = poll_account(account_id=account.pk, now=now)
    assert (run.state, run.prices_written) == ("complete", 0)
    assert the_offer().price == Decimal("55.04")
    card = b"region,instance_type,usd_per_hour\nus-east-1,p5.48xlarge,50\n"
    import_prices(provider=Provider.objects.get(slug="aws"), file=io.BytesIO(card), now=now + HOUR)
    found = the_offer()
    assert (found.price, found.price_source, found.availability) == (Decimal(50), "rate_card", "available")
    assert found.account == account


@pytest.mark.django_db(transaction=True)
def test_it_writes_nothing_outside_of_a_transaction(supply, now):
    offer_ = Offer.objects.first()
    before = stored()
    with pytest.raises(RuntimeError, match="transaction"):
        write_offers(
            rows=[OfferRow(offer_.instance_type_id, offer_.region_id, offer_.purchase, price=Decimal(1))],
            regions=[offer_.region_id],
            source="api",
            now=now,
            teller=Teller(1),
        )
    assert stored() == before


@pytest.mark.parametrize("seed", range(6))
def test_random_polls_and_cards_leave_a_clean_history(account, second, cloud, now, seed):
    """Two accounts and a rate card tell of the same offers, and the clock goes to and fro."""
    chance = random.Random(seed)
    kinds = (PurchaseOption.ON_DEMAND, PurchaseOption.SPOT)
    told: dict[tuple[str, str], set[Decimal]] = {}
    at = now
    for _step in range(40):
        at += chance.choice((HOUR / 4, HOUR, timedelta(0), -HOUR / 2, 3 * HOUR))
        price = Decimal(chance.choice((10, 11, 12)))
        if chance.random() < 0.2:
            name = chance.choice((P5, P4))
            told.setdefault((name, "on_demand"), set()).add(price)
            card = f"region,instance_type,usd_per_hour\nus-east-1,{name},{price}\n".encode()
            import_prices(provider=Provider.objects.get(slug="aws"), file=io.BytesIO(card), now=at)
        else:
            listed = [(n, k) for n in (P5, P4) for k in kinds if chance.random() < 0.7] or [(P5, kinds[0])]
            for name, kind in listed:
                told.setdefault((name, str(kind)), set()).add(price)
            cloud.answers["us-east-1"] = catalog(
                *[
                    offer(n, str(price), purchase_option=k, availability=chance.choice(list(Availability)))
                    for n, k in listed
                ]
            )
            (run,) = poll_account(account_id=chance.choice((account.pk, second.pk)), now=at)
            assert (run.state, run.error) == ("complete", "")
        assert [check.outcome().examples for check in CHECKS] == [[], []]
    for found in Offer.objects.filter(region__code="us-east-1").select_related("instance_type"):
        key = (found.instance_type.name, found.purchase)
        if found.price is not None and key in told:
            assert found.price in told[key] | {Decimal("55.04"), Decimal("21.957642")}
