"""An account that fails is asked less and less, then left alone, and tried with one region."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from inventory import circuit
from inventory.accounts import request_poll, set_credentials
from inventory.circuit import Circuit
from inventory.models import PollRun, ProviderAccount
from inventory.polling import due_accounts, poll_account
from inventory.providers.errors import AuthFailed, RateLimited, TimedOut
from inventory.tasks import poll_provider
from portal.accounts.models import Event
from portal.dashboard.overview import poll_health
from tests.inventory.fake_cloud import FakeCloud, catalog, offer

pytestmark = pytest.mark.django_db

DOWN = TimedOut("No answer.")
REGIONS = ("us-east-1", "us-east-2", "us-west-2")


def here(code: str):
    return catalog(offer(region=code))


def everywhere(cloud: type[FakeCloud], answer=None) -> None:
    cloud.answers = {code: answer or here(code) for code in REGIONS}


def fail_often(account: ProviderAccount, now, times: int = circuit.FAILURES):
    """Poll whenever the next poll is due, and return when the last of these was."""
    at = now
    for _number in range(times):
        poll_account(account_id=account.pk, now=at)
        account.refresh_from_db()
        last, at = at, account.next_poll_at
    return last


def tried(account: ProviderAccount, now) -> list[str]:
    """Return the regions that a poll asked for."""
    return [run.region.code for run in poll_account(account_id=account.pk, now=now) if run.region]


def test_it_opens_after_some_failures_and_closes_with_the_first_success(account, cloud, now):
    everywhere(cloud, DOWN)
    fail_often(account, now, circuit.FAILURES - 1)
    assert circuit.circuit(account, now=now) == Circuit.CLOSED

    last = fail_often(account, account.next_poll_at, 1)
    assert circuit.circuit(account, now=last + timedelta(minutes=5)) == Circuit.OPEN
    assert account.circuit_opened_at - last < timedelta(minutes=1)
    assert due_accounts(now=account.next_poll_at - timedelta(seconds=1)) == []
    assert due_accounts(now=account.next_poll_at) == [account.pk]
    assert circuit.circuit(account, now=account.next_poll_at) == Circuit.HALF_OPEN

    (told,) = Event.objects.filter(kind__startswith="polling.")
    assert (told.kind, told.message) == ("polling.stopped", "aws main is not polled for now: No answer.")
    fail_often(account, account.next_poll_at, 2)
    assert Event.objects.filter(kind__startswith="polling.").count() == 1

    everywhere(cloud)
    assert len(tried(account, account.next_poll_at)) == len(REGIONS)  # the trial went well: all of them
    account.refresh_from_db()
    assert (account.poll_failures, account.circuit_opened_at) == (0, None)
    assert Event.objects.filter(kind="polling.resumed").count() == 1


def test_a_trial_asks_for_one_region_another_each_time(account, cloud, now):
    everywhere(cloud, DOWN)
    fail_often(account, now)
    opened = account.circuit_opened_at
    seen = []
    for _number in range(len(REGIONS)):
        seen += tried(account, account.next_poll_at)
        account.refresh_from_db()
    assert sorted(seen) == sorted(REGIONS)
    assert account.circuit_opened_at == opened
    assert account.next_poll_at - account.poll_runs.first().started_at > timedelta(hours=4)


def test_refused_credentials_stop_polling_at_once_until_they_are_replaced(account, cloud, now):
    everywhere(cloud, AuthFailed("Refused."))
    assert len(tried(account, now)) == 2  # the first might be closed to good credentials
    account.refresh_from_db()
    assert circuit.circuit(account, now=now + timedelta(hours=4)) == Circuit.OPEN

    set_credentials(
        account_id=account.pk,
        credentials={"access_key_id": "AKIANEW", "secret_access_key": "another-secret"},
        actor=None,
        now=now,
    )
    account.refresh_from_db()
    assert circuit.circuit(account, now=now) == Circuit.CLOSED
    assert due_accounts(now=now) == [account.pk]
    everywhere(cloud)
    assert len(tried(account, now)) == len(REGIONS)


@pytest.mark.parametrize("closed", REGIONS)
def test_one_region_that_is_not_allowed_does_not_stop_the_others(account, cloud, now, closed):
    everywhere(cloud)
    cloud.answers[closed] = AuthFailed("Not enabled in this region.")
    assert len(tried(account, now)) == len(REGIONS)
    account.refresh_from_db()
    assert (account.poll_failures, account.circuit_opened_at) == (0, None)


def test_poll_now_overrides_the_pause(account, cloud):
    now = timezone.now()  # the task's clock
    everywhere(cloud, AuthFailed("Refused."))
    poll_account(account_id=account.pk, now=now)
    everywhere(cloud)
    poll_provider(account.pk)  # a task that was sent before: not due
    assert PollRun.objects.count() == 2

    request_poll(account_id=account.pk, now=now)
    poll_provider(account.pk)

    assert PollRun.objects.filter(state="complete").count() == len(REGIONS)
    account.refresh_from_db()
    assert account.circuit_opened_at is None


def test_other_options_are_tried_at_once(account, cloud, now, admin_client):
    everywhere(cloud, DOWN)
    fail_often(account, now)
    form = {"provider": account.provider_id, "name": account.name, "delivery_probe": "ssh", "enabled": "on"}
    form |= {"poll_interval": "00:15:00", "options": '{"regions": ["us-east-2"]}', "initial-options": "{}"}
    page = reverse("admin:inventory_provideraccount_change", args=[account.pk])
    assert admin_client.post(page, form).status_code == 302
    assert due_accounts(now=now) == [account.pk]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (7200, timedelta(hours=2), timedelta(hours=2, minutes=1)),
        (10**12, timedelta(hours=23), timedelta(hours=25)),
        (float("nan"), timedelta(minutes=10), timedelta(minutes=20)),
        (-5, timedelta(minutes=10), timedelta(minutes=20)),
        ("soon", timedelta(minutes=10), timedelta(minutes=20)),
    ],
)
def test_a_rate_limit_is_waited_for_within_reason(account, cloud, now, asked, least, most):
    everywhere(cloud, RateLimited("Slow down.", retry_after=asked))
    assert len(tried(account, now)) == 1  # the others would only be refused as well
    account.refresh_from_db()
    assert least <= account.next_poll_at - now <= most


def test_a_rate_limit_in_the_middle_keeps_what_came_before(account, cloud, now):
    everywhere(cloud)
    cloud.answers["us-east-2"] = RateLimited("Slow down.", retry_after=7200)
    assert tried(account, now) == ["us-east-1", "us-east-2"]
    account.refresh_from_db()
    assert account.poll_failures == 0
    assert account.next_poll_at - now >= timedelta(hours=2)
    everywhere(cloud)
    assert tried(account, account.next_poll_at)[0] == "us-west-2"  # the one that was left out comes first


def test_a_clock_that_was_put_back_does_not_stop_polls(account, now):
    ahead = now + timedelta(days=400)
    ProviderAccount.objects.update(next_poll_at=ahead)
    assert due_accounts(now=now) == [account.pk]
    ProviderAccount.objects.update(
        next_poll_at=None, claim_token="0b0e7f4e-7d4b-4a29-9a0e-0b0e7f4e7d4b", claim_expires_at=ahead
    )
    assert due_accounts(now=now) == [account.pk]
    assert len(poll_account(account_id=account.pk, now=now)) == 1


def test_staff_see_what_is_left_alone_and_why(account, cloud, admin_client):
    now = timezone.now()
    everywhere(cloud, TimedOut("The cloud did not answer in time."))
    changelist = reverse("admin:inventory_provideraccount_changelist")
    assert "as planned" in admin_client.get(changelist).content.decode()

    poll_account(account_id=account.pk, now=now)
    assert "1 poll failed" in admin_client.get(changelist).content.decode()

    fail_often(account, now, circuit.FAILURES - 1)
    page = reverse("admin:inventory_provideraccount_change", args=[account.pk])
    text = admin_client.get(page).content.decode()
    assert "The cloud did not answer in time." in text
    assert "tried again in" in text
    assert [(row["label"], row["error"]) for row in poll_health(now=timezone.now())] == [
        ("Stopped", "The cloud did not answer in time.")
    ]
