"""A slow or silent cloud holds up neither other clouds nor its own other regions for long."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection

from inventory import polling
from inventory.models import PollRun, Provider, ProviderAccount
from inventory.polling import poll_account
from inventory.providers.base import RegionInfo
from inventory.tasks import poll_due, poll_provider
from tests.concurrency import race
from tests.inventory.conftest import make_account
from tests.inventory.fake_cloud import FakeCloud, catalog, offer, stored, the_offer

pytestmark = pytest.mark.django_db(transaction=True)

SHORT = timedelta(seconds=0.5)


@pytest.fixture
def silence():
    """An answer that does not come before the test is over."""
    over = threading.Event()

    def answer(region: str):
        over.wait(20)
        return catalog(offer(region=region, price="666"))

    yield answer
    over.set()


def here(code: str):
    return catalog(offer(region=code))


def states(runs: list[PollRun]) -> list[tuple[str | None, str]]:
    return [(run.region and run.region.code, run.state) for run in runs]


def test_a_silent_region_fails_in_words_and_the_others_follow(account, cloud, now, silence, monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE", SHORT)
    cloud.answers = {"us-east-1": silence, "us-east-2": here, "us-west-2": here}
    before = the_offer().price
    runs = poll_account(account_id=account.pk, now=now)
    assert states(runs) == [("us-east-1", "failed"), ("us-east-2", "complete"), ("us-west-2", "complete")]
    assert runs[0].error.startswith("The provider has not answered completely within")
    assert the_offer().price == before


def test_an_answer_that_comes_too_late_is_thrown_away(account, cloud, now, monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE", SHORT)
    before = the_offer().price
    late = threading.Event()

    def second(region: str):
        late.set()
        time.sleep(0.1)
        return here(region)

    def first(region: str):
        late.wait(10)
        return catalog(offer(region=region, price="666"))

    cloud.answers = {"us-east-1": first, "us-east-2": second}
    runs = poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    assert dict(states(runs)) == {"us-east-1": "failed", "us-east-2": "complete"}
    assert the_offer().price == before


def test_a_silent_list_of_regions_fails_in_words(account, cloud, now, silence, monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE", SHORT)
    monkeypatch.setattr(FakeCloud, "regions", lambda self: silence("") and [])
    (run,) = poll_account(account_id=account.pk, now=now)
    assert (run.state, run.region) == ("failed", None)
    assert "has not answered completely" in run.error


def test_another_account_is_polled_while_one_waits(account, cloud, now):
    """Both of one provider: no lock is held while a cloud is asked."""
    other = make_account("fake", slug="aws", name="other")
    entered, go_on = threading.Event(), threading.Event()

    def slow_at_first(region: str):
        if not entered.is_set():
            entered.set()
            assert go_on.wait(20)
        return here(region)

    cloud.answers = {"us-east-1": slow_at_first}

    def impatient():
        assert entered.wait(20)
        runs = poll_account(account_id=other.pk, now=now)
        go_on.set()
        return runs

    slow, quick = race([lambda: poll_account(account_id=account.pk, now=now), impatient])
    assert states(slow) == states(quick) == [("us-east-1", "complete")]
    assert quick[0].pk > slow[0].pk


def test_regions_are_asked_at_once_where_the_adapter_allows(account, cloud, now, monkeypatch):
    monkeypatch.setattr(cloud, "regions_at_once", 3)
    together = threading.Barrier(3)

    def meet(region: str):
        together.wait(20)
        return here(region)

    cloud.answers = {f"us-east-{number}": meet for number in range(6)}
    runs = poll_account(account_id=account.pk, now=now)
    assert [run.state for run in runs] == ["complete"] * 6
    assert {run.region.code for run in runs} == set(cloud.answers)


def test_regions_are_asked_one_by_one_otherwise(account, cloud, now):
    inside, most, lock = [0], [0], threading.Lock()

    def count(region: str):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        with lock:
            inside[0] -= 1
        return here(region)

    cloud.answers = {f"us-east-{number}": count for number in range(4)}
    assert len(poll_account(account_id=account.pk, now=now)) == 4
    assert most == [1]


def test_the_claim_is_renewed_while_a_cloud_takes_its_time(account, cloud, now, monkeypatch):
    monkeypatch.setattr(polling, "RENEWAL", timedelta(seconds=0.05))
    ends = []

    def slow(region: str):
        for _number in range(2):
            ends.append(ProviderAccount.objects.get(pk=account.pk).claim_expires_at)
            time.sleep(0.3)
        return here(region)

    cloud.answers = {"us-east-1": slow}
    poll_account(account_id=account.pk, now=now)
    assert ends[0] < ends[1]


def test_a_worker_whose_claim_was_taken_stops_waiting(account, cloud, now, silence, monkeypatch):
    monkeypatch.setattr(polling, "RENEWAL", timedelta(seconds=0.05))

    def taken(region: str):
        ProviderAccount.objects.filter(pk=account.pk).update(
            claim_token="0b0e7f4e-7d4b-4a29-9a0e-0b0e7f4e7d4b"
        )
        return silence(region)

    cloud.answers = {"us-east-1": taken, "us-east-2": here}
    before = stored()
    assert poll_account(account_id=account.pk, now=now) == []
    (run,) = PollRun.objects.all()
    assert run.error == "The poll took too long, and another worker took over."
    account.refresh_from_db()
    assert account.claim_token is not None  # the other one's
    assert stored() == before


def test_a_poll_that_takes_too_long_leaves_regions_for_the_next(account, cloud, now, monkeypatch):
    monkeypatch.setattr(polling, "WHOLE_POLL", timedelta(0))
    cloud.answers = dict.fromkeys(("us-east-1", "us-east-2", "us-west-2"), here)
    runs = poll_account(account_id=account.pk, now=now)
    assert states(runs) == [("us-east-1", "complete"), (None, "failed")]
    assert (
        runs[1].error
        == "The poll took too long: 2 regions were left for the next one, which begins with them."
    )
    account.refresh_from_db()
    runs = poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    assert states(runs)[0] == ("us-east-2", "complete")
    runs = poll_account(account_id=account.pk, now=now + timedelta(hours=2))
    assert states(runs)[0] == ("us-west-2", "complete")


def test_no_transaction_is_open_while_a_cloud_is_asked(account, cloud, now):
    waiting = []

    def look(region: str):
        with connection.cursor() as cursor:
            cursor.execute("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'
                """)
            waiting.append(cursor.fetchone()[0])
            cursor.execute("SELECT id FROM inventory_provideraccount FOR UPDATE NOWAIT")
        return here(region)

    cloud.answers = {"us-east-1": look}
    (run,) = poll_account(account_id=account.pk, now=now)
    assert (run.state, waiting) == ("complete", [0])


def test_every_due_account_gets_a_task_of_its_own(supply, cloud, settings):
    settings.CELERY_TASK_ALWAYS_EAGER = True
    accounts = [make_account("fake", slug=f"cloud-{number}") for number in range(3)]
    Provider.objects.filter(slug="cloud-1").update(kind="")  # known from a rate card only
    poll_due()
    assert sorted(PollRun.objects.values_list("account", flat=True)) == [accounts[0].pk, accounts[2].pk]
    poll_due()
    poll_provider(accounts[0].pk)  # a message that lay in the queue
    assert PollRun.objects.count() == 2


def test_an_adapter_that_lists_its_own_limit_wrongly(account, cloud, now, monkeypatch):
    monkeypatch.setattr(cloud, "regions_at_once", "many")
    monkeypatch.setattr(cloud, "listing", [RegionInfo("us-east-1")])
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.error == "The poll failed unexpectedly (ValueError); the worker’s log says where."
