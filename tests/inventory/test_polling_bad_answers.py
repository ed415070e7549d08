"""Whatever an adapter answers, the last good catalog stays and the run says why in words."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from decimal import Decimal

import pytest

from inventory.audit import CHECKS
from inventory.models import Offer, PollRun, PricePoint, Region
from inventory.polling import poll_account
from inventory.providers.base import Catalog, RegionInfo, ZoneInfo
from inventory.providers.errors import BadAnswer
from inventory.providers.http import JsonApi
from tests.inventory.fake_cloud import A100, H100, catalog, offer, stored, the_offer

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
GOOD = catalog(offer(), offer("p4d.24xlarge", "21.95"))


def after(account, cloud, now, answer) -> PollRun:
    """Poll well, then get ``answer``; return that run, with the audit holding."""
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = answer
    run = poll_account(account_id=account.pk, now=now + HOUR)[-1]
    assert [check.outcome().examples for check in CHECKS] == [[], []]
    return run


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "The adapter answered a NoneType instead of a catalog."),
        ({"offers": []}, "The adapter answered a dict instead of a catalog."),
        ("<!doctype html>", "The adapter answered a str instead of a catalog."),
        (dataclasses.replace(GOOD, offers=None), "The adapter’s catalog has a NoneType as its offers."),
        (dataclasses.replace(GOOD, offers="many"), "has a str as its offers"),
        (dataclasses.replace(GOOD, instance_types={"p5": 8}), "has a dict as its instance_types"),
        (dataclasses.replace(GOOD, offers=(x for x in ())), "has a generator as its offers"),
        (dataclasses.replace(GOOD, region=None), "The poll failed unexpectedly (AttributeError)"),
    ],
)
def test_what_is_no_catalog_fails_and_changes_nothing(account, cloud, now, answer, says):
    poll_account(account_id=account.pk, now=now)
    before = stored()
    run = after(account, cloud, now, answer)
    assert run.state == "failed"
    assert says in run.error
    assert stored() == before


LONG = "x" * 10_000
STRANGE = "p5\x00.48\x1b[31mxlarge\ud800"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "None is not an offer."),
        (("p5.48xlarge", 55), "is not an offer."),
        (offer(zones=["us-east-1a"]), "p5.48xlarge (on_demand) cannot be read (TypeError)."),
        (offer(zones=("a" * 61,)), "has zones that are none."),
        (offer(zones=("us-east-1a", "x\x00")), "has zones that are none."),
        (offer(zones=(7,)), "has zones that are none."),
        (offer(price=True), "has a price that is not a number: True."),
        (offer(price=55), "has a price that is not a number: 55."),
        (offer(price=b"55.04"), "has a price that is not a number"),
        (offer(price=Decimal("sNaN")), "has a price that is not a number: sNaN."),
        (offer(price=Decimal("-Infinity")), "has a price that is not a number: -Infinity."),
        (offer(price=Decimal("1e999999")), "has an impossible price"),
        (offer(price=Decimal("1" * 5000)), "has an impossible price"),
        (offer(currency="EUR"), "is priced in “EUR”, but the account is billed in USD: if that changed, set"),
        (offer(currency=None), "is priced in “None”"),
        (offer(purchase_option=None), "has the unknown purchase option “None”."),
        (offer(availability=["available"]), "cannot be read (TypeError)."),
        (offer(region=None), "is for region None."),
        (offer(["p5.48xlarge"]), "cannot be read (TypeError)."),
    ],
)
def test_an_offer_of_wrong_types_makes_the_poll_partial(account, cloud, now, bad, says):
    poll_account(account_id=account.pk, now=now)
    before = stored()
    run = after(account, cloud, now, catalog(bad))
    assert (run.state, run.offers_written, run.prices_written) == ("partial", 0, 0)
    assert says in run.error
    assert stored() == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gpu_count": "8"}, "Instance type p5.48xlarge has a gpu_count that is no count: 8."),
        ({"gpu_count": -8}, "has a gpu_count that is no count: -8."),
        ({"gpu_count": None}, "has a gpu_count that is no count: None."),
        ({"vcpus": 10**12}, "has a vcpus that is no count: 1000000000000."),
        ({"memory_mib": 2.5}, "has a memory_mib that is no count: 2.5."),
        ({"name": None}, "Instance type None has no name."),
        ({"name": ""}, "has no name"),
    ],
)
def test_an_instance_type_of_wrong_types_makes_the_poll_partial(account, cloud, now, fields, says):
    poll_account(account_id=account.pk, now=now)
    before = stored()
    bad = dataclasses.replace(H100, **fields)
    run = after(account, cloud, now, catalog(offer(), types=(bad, A100)))
    assert run.state == "partial"
    assert says in run.error
    assert stored() == before


@pytest.mark.parametrize(
    "name", [LONG, STRANGE, "🚀" * 2000, "\u202e" + "p5.48xlarge", "'; DROP TABLE offers; --"]
)
def test_a_strange_name_is_shown_and_stops_nothing(account, cloud, now, name):
    odd = dataclasses.replace(H100, name=name, gpu_name=name)
    run = after(account, cloud, now, catalog(offer(price="60"), offer(name, "9"), types=(H100, A100, odd)))
    assert run.state in ("complete", "partial")
    assert run.prices_written == 1
    assert the_offer().price == Decimal(60)
    kept = "\n".join([run.error, *run.unknown_types])
    assert kept
    assert len(kept) < 1000
    assert kept.replace("\n", "").isprintable()


def test_an_error_of_control_characters_and_ten_kilobytes_is_kept_readable(account, cloud, now):
    run = after(account, cloud, now, BadAnswer(f"Unexpected \x00\x07{STRANGE}{LONG}"))
    assert run.state == "failed"
    assert run.error.startswith("Unexpected ��p5�")
    assert len(run.error) <= 4000


def test_a_page_that_repeats_is_noticed(account, cloud, now):
    page = [offer(), offer("p4d.24xlarge", "21.95")]
    before_polls = Offer.objects.count()
    run = after(account, cloud, now, catalog(*page * 50))
    assert (run.state, run.offers_seen, run.offers_written, run.prices_written) == ("partial", 100, 0, 0)
    assert run.error.splitlines()[0] == "p5.48xlarge (on_demand) is listed twice."
    assert run.error.splitlines()[-1] == "and 93 more."
    assert Offer.objects.count() == before_polls


def test_of_two_prices_for_one_offer_neither_is_believed(account, cloud, now):
    run = after(account, cloud, now, catalog(offer(price="1"), offer("p4d.24xlarge", "20"), offer(price="2")))
    assert (run.state, run.prices_written) == ("partial", 1)
    assert run.error == "p5.48xlarge (on_demand) is listed twice, and differently."
    assert the_offer().price == Decimal("55.04")
    assert the_offer(name="p4d.24xlarge").price == Decimal(20)


def test_an_account_billed_in_another_currency(account, cloud, now):
    account.options["currency"] = "eur"
    account.save()
    run = after(
        account, cloud, now, catalog(offer(price="50", currency="EUR"), offer("p4d.24xlarge", "21.95"))
    )
    assert run.state == "partial"
    assert "p4d.24xlarge (on_demand) is priced in “USD”, but the account is billed in EUR" in run.error
    found = the_offer()
    assert (found.price, found.currency) == (Decimal(50), "EUR")
    assert [point.currency for point in found.price_points.order_by("period")] == ["USD", "EUR"]


def test_a_configured_region_that_is_not_listed_is_told(account, cloud, now):
    account.options["regions"] = ["us-east-1", "us-esat-2"]
    account.save()
    runs = poll_account(account_id=account.pk, now=now)
    assert [(run.state, run.region and run.region.code) for run in runs] == [
        ("failed", None),
        ("complete", "us-east-1"),
    ]
    assert "name regions that the provider does not list: us-esat-2." in runs[0].error
    assert "listed are us-east-1." in runs[0].error
    assert not Region.objects.filter(code="us-esat-2").exists()
    account.refresh_from_db()
    assert account.poll_failures == 0


@pytest.mark.parametrize(
    ("listing", "says"),
    [
        ([], "The provider lists no region for this account."),
        ("us-east-1", "The adapter’s list of regions is not one."),
        ([{"code": "us-east-1"}], "The adapter’s list of regions is not one."),
        ([RegionInfo("")], "The provider lists a region “”: that is no code."),
        ([RegionInfo(LONG)], "that is no code"),
        ([RegionInfo("us\x00east")], "The provider lists a region “us�east”: that is no code."),
        ([RegionInfo(None)], "The provider lists a region “None”: that is no code."),
        ([RegionInfo(f"r{n}") for n in range(1000)], "The provider lists 1000 regions: that is no answer."),
    ],
)
def test_a_list_of_regions_that_is_none(account, cloud, now, monkeypatch, listing, says):
    poll_account(account_id=account.pk, now=now)
    before, regions = stored(), Region.objects.count()
    monkeypatch.setattr(cloud, "listing", listing)
    (run,) = poll_account(account_id=account.pk, now=now + HOUR)
    assert (run.state, run.region) == ("failed", None)
    assert says in run.error
    assert (stored(), Region.objects.count()) == (before, regions)


def test_a_region_listed_twice_is_polled_once(account, cloud, now, monkeypatch):
    monkeypatch.setattr(cloud, "listing", [RegionInfo("us-east-1"), RegionInfo("us-east-1", "again")])
    assert [run.state for run in poll_account(account_id=account.pk, now=now)] == ["complete"]


def test_zones_that_are_none_are_left_out(account, cloud, now):
    region = RegionInfo(
        "us-east-1", zones=(ZoneInfo("us-east-1a"), ZoneInfo("z" * 61), ZoneInfo("\x00"), "b")
    )
    answer = Catalog(region=region, instance_types=(H100, A100), offers=GOOD.offers)
    run = after(account, cloud, now, answer)
    assert run.state == "partial"
    assert len(run.error.splitlines()) == 3
    assert list(
        Region.objects.get(code="us-east-1", provider__slug="aws").zones.values_list("code", flat=True)
    ) == ["us-east-1a"]


def test_a_hundred_thousand_machines_nobody_knows(account, cloud, now):
    many = [offer(f"machine-{number}", "1") for number in range(100_000)]
    run = after(account, cloud, now, catalog(offer(), *many))
    assert (run.offers_seen, run.offers_written, run.prices_written) == (100_001, 1, 0)
    assert run.state == "complete"  # the A100 is gone; the machines are listed for staff, not all of them
    assert 0 < len(run.unknown_types) <= 500


def test_more_offers_than_any_region_has(account, cloud, now, monkeypatch):
    monkeypatch.setattr("inventory.answers.MOST_OFFERS", 10)
    run = after(account, cloud, now, catalog(*[offer() for _ in range(11)]))
    assert run.error == "The provider listed 11 offers in one region: that is no answer."


def test_a_page_instead_of_json_through_the_shared_client(account, cloud, now, html_server):
    def ask(region):
        return JsonApi(base_url=html_server).read("/offers", action="Reading the offers", method="POST")

    poll_account(account_id=account.pk, now=now)
    before = stored()
    run = after(account, cloud, now, ask)
    assert (run.state, run.error) == ("failed", "Reading the offers: the answer is not JSON.")
    assert stored() == before


@pytest.mark.parametrize("back", [timedelta(0), timedelta(minutes=1), timedelta(days=400)])
def test_a_clock_that_was_put_back_never_makes_an_empty_period(account, cloud, now, back):
    """Our own: of two workers, or set right after it was ahead."""
    poll_account(account_id=account.pk, now=now)
    for price in ("60", "61", "21", "60"):
        cloud.answers["us-east-1"] = catalog(offer(price=price), offer("p4d.24xlarge", "21.95"))
        (run,) = poll_account(account_id=account.pk, now=now - back)
        assert (run.state, run.prices_written) == ("complete", 1)
        assert the_offer().price == Decimal(price)
    assert [check.outcome().examples for check in CHECKS] == [[], []]
    points = list(PricePoint.objects.filter(offer=the_offer()).order_by("period"))
    assert all(point.period.upper is None or point.period.lower < point.period.upper for point in points)
    assert points[-1].period.upper is None


def test_a_price_that_comes_back_before_it_ended(account, cloud, now):
    """A worker's clock is an hour behind the one that saw the offer go."""
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(offer())
    poll_account(account_id=account.pk, now=now + HOUR)
    for hours, price in ((0.5, "21.95"), (0.6, "30"), (0.7, "21.95")):
        cloud.answers["us-east-1"] = catalog(offer(), offer("p4d.24xlarge", price))
        (run,) = poll_account(account_id=account.pk, now=now + hours * HOUR)
        assert run.state == "complete", run.error
        assert the_offer(name="p4d.24xlarge").price == Decimal(price)
        assert [check.outcome().examples for check in CHECKS] == [[], []]
