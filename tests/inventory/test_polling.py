"""Polling keeps what a provider said, with its age; a bad answer changes nothing that was good."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from inventory.audit import CHECKS
from inventory.fleet import freshness
from inventory.models import InstanceType, Offer, PollRun, Provider, ProviderAccount, Zone
from inventory.polling import due_accounts, forget_old_runs, poll_account
from inventory.prices import RATE_CARD
from inventory.providers.base import Availability, InstanceTypeInfo, PurchaseOption
from inventory.providers.errors import AuthFailed, BadAnswer, RateLimited, TimedOut
from inventory.rate_cards import import_prices
from inventory.tasks import poll_provider
from tests.concurrency import race
from tests.inventory.conftest import make_account
from tests.inventory.fake_cloud import A100, H100, catalog, offer, stored, the_offer

pytestmark = pytest.mark.usefixtures("supply")


def test_a_poll_stores_offers_prices_and_zones(account, now):
    (run,) = poll_account(account_id=account.pk, now=now)

    assert (run.state, run.error, run.region.code) == ("complete", "", "us-east-1")
    assert run.offers_seen == 2
    found = the_offer()
    assert (found.availability, found.zones) == ("available", ["us-east-1a"])
    assert (found.price, found.price_source) == (Decimal("55.04"), "rate_card")  # the same price: not written
    changed = the_offer(name="p4d.24xlarge")
    assert (changed.price, changed.price_source) == (Decimal("21.95"), "api")
    assert [point.period.upper is None for point in changed.price_points.order_by("period")] == [False, True]
    assert Zone.objects.get(region=run.region).code == "us-east-1a"
    assert freshness([found])[found.pk].polled_at == run.finished_at
    account.refresh_from_db()
    assert account.claim_token is None
    assert timedelta(minutes=15) <= account.next_poll_at - run.finished_at < timedelta(minutes=17)


def test_an_unchanged_poll_writes_no_offer_and_no_price(account, now):
    poll_account(account_id=account.pk, now=now)
    before = stored()

    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert (run.state, run.offers_seen, run.offers_written, run.prices_written) == ("complete", 2, 0, 0)
    assert stored() == before
    assert freshness([the_offer()])[the_offer().pk].age(now + timedelta(hours=2)) < timedelta(hours=1)


def test_a_changed_price_keeps_the_old_one_with_its_period(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(offer(price="60.00"), offer("p4d.24xlarge", "21.95"))

    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert (run.offers_written, run.prices_written) == (0, 1)
    old, new = the_offer().price_points.order_by("period")
    assert (old.price, new.price, new.source) == (Decimal("55.04"), Decimal("60.00"), "api")
    assert old.period.upper == new.period.lower == run.finished_at
    assert new.period.upper is None


def test_a_complete_poll_withdraws_what_is_no_longer_listed(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(offer())

    poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    gone = the_offer(name="p4d.24xlarge")
    assert (gone.availability, gone.price) == ("unavailable", None)
    assert Offer.objects.filter(region__code="us-gov-west-1", availability="unavailable").count() == 0


def test_two_accounts_that_see_different_offers_do_not_undo_each_other(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    second = make_account("fake", slug="aws", name="second")
    cloud.answers["us-east-1"] = catalog(offer())

    poll_account(account_id=second.pk, now=now + timedelta(hours=1))

    assert the_offer(name="p4d.24xlarge").availability == "available"


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (TimedOut("describe: no answer in time."), "describe: no answer in time."),
        (BadAnswer("HTML instead of JSON.", code="500"), "HTML instead of JSON. (500)"),
        (AuthFailed("These credentials were refused."), "These credentials were refused."),
        (KeyError("secret detail"), "The poll failed unexpectedly (KeyError)"),
    ],
)
def test_a_failed_poll_deletes_nothing_and_is_shown(account, cloud, now, failure, says):
    poll_account(account_id=account.pk, now=now)
    before, polled = stored(), freshness([the_offer()])[the_offer().pk].polled_at
    cloud.answers["us-east-1"] = failure

    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert run.state == "failed"
    assert says in run.error
    assert "secret detail" not in run.error
    assert stored() == before
    assert freshness([the_offer()])[the_offer().pk].polled_at == polled


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (offer(price=None), "p5.48xlarge (on_demand) has no price."),
        (offer(price="NaN"), "has a price that is not a number: NaN"),
        (offer(price="Infinity"), "has a price that is not a number: Infinity"),
        (offer(price=55.04), "has a price that is not a number"),
        (offer(price="-1"), "has an impossible price: -1"),
        (offer(price="0"), "has an impossible price: 0"),
        (offer(price="0.000000001"), "has an impossible price"),
        (offer(price="1000000"), "has an impossible price"),
        (offer(region="us-west-2"), "is for region us-west-2"),
        (offer(availability="maybe"), "unknown availability “maybe”"),
        (offer(purchase_option="gift"), "unknown purchase option “gift”"),
        (offer(currency="dollar"), "is priced in “dollar”, but the account is billed in USD"),
    ],
)
def test_a_bad_row_makes_the_poll_partial_and_keeps_the_last_good_one(account, cloud, now, bad, says):
    poll_account(account_id=account.pk, now=now)
    before, polled = stored(), freshness([the_offer()])[the_offer().pk].polled_at
    cloud.answers["us-east-1"] = catalog(bad)  # and the A100 is missing

    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert run.state == "partial"
    assert says in run.error
    assert stored() == before
    assert freshness([the_offer()])[the_offer().pk].polled_at == polled


def test_a_partial_poll_stores_its_good_rows(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(offer(price="NaN"), offer("p4d.24xlarge", "20"))

    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert (run.state, run.prices_written) == ("partial", 1)
    assert the_offer(name="p4d.24xlarge").price == Decimal(20)
    assert the_offer().price == Decimal("55.04")


def test_an_empty_answer_is_no_complete_one(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    before = stored()
    cloud.answers["us-east-1"] = catalog()
    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    assert (run.state, run.error) == ("partial", "The provider listed no offers at all; the last ones stay.")
    assert stored() == before


def test_one_region_that_fails_leaves_the_others_alone(account, cloud, now):
    cloud.answers = {"us-east-2": TimedOut("No answer."), "us-east-1": cloud.answers["us-east-1"]}
    runs = poll_account(account_id=account.pk, now=now)
    assert [(run.region.code, run.state) for run in runs] == [
        ("us-east-2", "failed"),
        ("us-east-1", "complete"),
    ]


def test_refused_credentials_end_the_poll(account, cloud, now):
    cloud.answers = dict.fromkeys(("us-east-2", "us-west-1", "us-west-2"), AuthFailed("Refused."))
    runs = poll_account(account_id=account.pk, now=now)
    assert [run.region.code for run in runs] == ["us-east-2", "us-west-1"]


def test_a_provider_that_cannot_list_its_regions(account, cloud, now, monkeypatch):
    monkeypatch.setattr(cloud, "listing", BadAnswer("Not JSON."))
    (run,) = poll_account(account_id=account.pk, now=now)
    assert (run.state, run.region, run.error) == ("failed", None, "Not JSON.")


def test_missing_credentials_are_a_readable_failure(account, now):
    ProviderAccount.objects.update(credentials=None)
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.error == "aws main has no credentials: enter them first."


def test_unknown_types_are_reported_and_not_guessed(account, cloud, now):
    new = InstanceTypeInfo("p9.48xlarge", 384, 4096 * 1024, "nvidia", "X100", 8, 524288)
    cloud.answers["us-east-1"] = catalog(offer(), offer("p9.48xlarge", "99"), types=(H100, A100, new))

    (run,) = poll_account(account_id=account.pk, now=now)

    assert run.unknown_types == ["p9.48xlarge: 8 × nvidia X100, 524288 MiB"]
    assert run.state == "complete"
    assert not InstanceType.objects.filter(name="p9.48xlarge").exists()


def test_another_gpu_count_than_ours_is_reported(account, cloud, now):
    InstanceType.objects.filter(name="p4d.24xlarge").update(gpus_per_node=4)
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.state == "partial"
    assert run.error == "p4d.24xlarge: the provider says 8 GPUs, our catalog 4."


def test_failures_in_a_row_wait_longer_and_longer(account, cloud, now):
    cloud.answers["us-east-1"] = TimedOut("No answer.")
    waits = []
    at = now
    for _ in range(8):
        poll_account(account_id=account.pk, now=at)
        account.refresh_from_db()
        waits.append(account.next_poll_at - at)
        at = account.next_poll_at
    assert timedelta(minutes=12) <= waits[0] <= timedelta(minutes=19)
    assert all(later > earlier for earlier, later in pairwise(waits[:5]))  # doubled, give or take a fifth
    assert timedelta(hours=4.8) <= waits[-1] < timedelta(hours=7.3)


def test_a_rate_limit_is_waited_for(account, cloud, now):
    cloud.answers["us-east-1"] = RateLimited("Slow down.", retry_after=7200)
    poll_account(account_id=account.pk, now=now)
    account.refresh_from_db()
    assert account.next_poll_at - now >= timedelta(hours=2)


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_poll_one_account_at_once(account, cloud, now, monkeypatch):
    inside, peak, lock = [0], [0], threading.Lock()
    entered = threading.Event()

    def during():
        with lock:
            inside[0] += 1
            peak[0] = max(peak[0], inside[0])
        entered.wait(0.3)
        with lock:
            inside[0] -= 1

    monkeypatch.setattr(cloud, "during", staticmethod(during))
    results = race([lambda: poll_account(account_id=account.pk, now=now)] * 6)

    assert sorted(len(runs) for runs in results) == [0, 0, 0, 0, 0, 1]
    assert peak == [1]
    assert PollRun.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_lost_its_claim_stores_nothing(account, cloud, now, monkeypatch):
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(offer(price="77"))

    def during():
        monkeypatch.setattr(cloud, "during", None)
        poll_account(account_id=account.pk, now=now + timedelta(hours=2))

    monkeypatch.setattr(cloud, "during", staticmethod(during))
    ours = poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert ours == []
    states = PollRun.objects.order_by("pk").values_list("state", flat=True)
    assert list(states) == ["complete", "failed", "complete"]
    assert the_offer().price_points.count() == 2


def test_a_dead_worker_s_run_is_closed(account, now):
    ProviderAccount.objects.update(claim_token="0b0e7f4e-7d4b-4a29-9a0e-0b0e7f4e7d4b", claim_expires_at=now)
    dead = PollRun.objects.create(account=account, started_at=now - timedelta(hours=1))
    poll_account(account_id=account.pk, now=now)
    dead.refresh_from_db()
    assert (dead.state, dead.error) == ("failed", "The worker stopped before the poll ended.")


def test_only_due_enabled_accounts_with_an_adapter_are_polled(account, now):
    Provider.objects.filter(slug="nebius").update(kind="")
    make_account("", slug="nebius", name="card only")
    make_account("fake", slug="aws", name="off", enabled=False)
    later = make_account("fake", slug="aws", name="later", next_poll_at=now + timedelta(minutes=1))
    assert due_accounts(now=now) == [account.pk]
    assert due_accounts(now=now + timedelta(minutes=1)) == [account.pk, later.pk]
    ProviderAccount.objects.filter(pk=account.pk).update(
        claim_token="0b0e7f4e-7d4b-4a29-9a0e-0b0e7f4e7d4b", claim_expires_at=now + timedelta(minutes=5)
    )
    assert due_accounts(now=now) == []


def test_the_number_of_statements_does_not_grow_with_the_offers(account, cloud, now):
    names = list(InstanceType.objects.filter(provider__slug="aws").order_by("name"))

    def polled(count: int) -> int:
        infos = tuple(
            InstanceTypeInfo(t.name, t.vcpus, t.memory_gib * 1024, "nvidia", "x", t.gpus_per_node, 1)
            for t in names[:count]
        )
        offers = [
            offer(info.name, f"{count}.5", purchase_option=option)
            for info in infos
            for option in (PurchaseOption.ON_DEMAND, PurchaseOption.SPOT)
        ]
        cloud.answers["us-east-1"] = catalog(*offers, types=infos)
        with CaptureQueriesContext(connection) as queries:
            (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=count))
        assert run.state == "complete"
        return len(queries)

    polled(1)
    few = polled(3)
    assert polled(40) == few


def test_the_tasks_poll_what_is_due(account, settings):
    settings.CELERY_TASK_ALWAYS_EAGER = True
    poll_provider(account.pk)
    assert PollRun.objects.get().state == "complete"
    assert due_accounts(now=PollRun.objects.get().finished_at) == []


def test_old_runs_are_forgotten_but_not_the_last_complete_one(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    cloud.answers["us-east-1"] = TimedOut("No answer.")
    poll_account(account_id=account.pk, now=now + timedelta(hours=2))

    assert forget_old_runs(now=now + timedelta(days=60)) == 2
    assert PollRun.objects.get().state == "complete"
    assert freshness([the_offer()])[the_offer().pk].polled_at is not None


def test_the_real_adapter_against_an_ec2_compatible_server(ec2_account, now):
    (run,) = poll_account(account_id=ec2_account.pk, now=now)

    assert (run.state, run.error) == ("complete", "")
    assert run.offers_seen > 100
    assert run.unknown_types == []
    found = the_offer()
    assert (found.availability, found.price, found.price_source) == ("unknown", Decimal("55.04"), RATE_CARD)
    assert "us-east-1a" in found.zones
    before = stored()
    (again,) = poll_account(account_id=ec2_account.pk, now=now + timedelta(minutes=15))
    assert (again.state, again.offers_written, again.prices_written) == ("complete", 0, 0)
    assert stored() == before


def test_a_page_instead_of_an_answer_keeps_the_catalog(ec2_account, now, html_server):
    poll_account(account_id=ec2_account.pk, now=now)
    before = stored()
    ec2_account.options["endpoint_url"] = html_server
    ec2_account.save()

    (run,) = poll_account(account_id=ec2_account.pk, now=now + timedelta(hours=1))

    assert (run.state, run.region.code) == ("failed", "us-east-1")
    assert "describe_instance_types: the answer is not what AWS describes." in run.error
    assert stored() == before


def test_availability_changes_are_written(account, cloud, now):
    poll_account(account_id=account.pk, now=now)
    cloud.answers["us-east-1"] = catalog(
        offer(availability=Availability.UNAVAILABLE),
        offer("p4d.24xlarge", "21.95", zones=("us-east-1b", "us-east-1a")),
    )
    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    assert run.offers_written == 2
    assert the_offer().availability == "unavailable"
    assert the_offer(name="p4d.24xlarge").zones == ["us-east-1a", "us-east-1b"]
    assert the_offer().changed_at == run.finished_at


@pytest.mark.django_db(transaction=True)
def test_polls_of_two_accounts_and_imports_at_once_lose_nothing(account, cloud, now):
    """All write one provider's offers: without one lock they deadlock or overwrite each other's prices."""
    accounts = [account.pk, make_account("fake", slug="aws", name="second").pk]
    provider = Provider.objects.get(slug="aws")

    def card(price: int) -> object:
        text = f"region,instance_type,usd_per_hour\nus-east-1,p5.48xlarge,{price}\nus-east-1,p4d.24xlarge,{price}\n"
        return import_prices(
            provider=provider, file=io.BytesIO(text.encode()), now=now + timedelta(minutes=price)
        )

    for number in range(1, 6):
        at = now + timedelta(hours=number)
        cloud.answers["us-east-1"] = catalog(offer(price=f"{number}.5"), offer("p4d.24xlarge", f"{number}.7"))
        calls = [lambda pk=pk, at=at: poll_account(account_id=pk, now=at) for pk in accounts]
        results = race([*calls, lambda n=number: card(100 + n), lambda n=number: card(200 + n)])
        assert [result for result in results if isinstance(result, Exception)] == []
        assert {run.state for runs in results[:2] for run in runs} == {"complete"}
        assert [check.outcome().examples for check in CHECKS] == [[], []]
