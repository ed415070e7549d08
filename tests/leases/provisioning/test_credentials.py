"""Credentials that are refused, and credentials that are of another account than the machines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from inventory.accounts import set_credentials
from inventory.models import ProviderAccount
from inventory.providers.base import AccountIdentity
from inventory.providers.errors import AuthFailed, TimedOut
from leases.models import Instance, LaunchIntent, Lease, Shortfall, Turnover
from leases.provisioning import losses, sweep, turnover, upstream
from leases.provisioning.claims import LISTING_LAG
from portal.accounts.models import Event
from portal.common.errors import Conflict
from tests.factories import make_user
from tests.leases.provisioning.conftest import (
    END,
    Cloud,
    Faults,
    at,
    run_until_active,
    the_intent,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]

KEYS = {"access_key_id": "test", "secret_access_key": "test"}
AFTER_LAG = 1 + LISTING_LAG.total_seconds() / 60 + 1


def enter(cloud: Cloud, faults: Faults, account: str = "") -> None:
    """Enter credentials again; ``account`` is whose they are, where not the same account's as before."""
    faults.answers["test_connection"] = [AccountIdentity(account)] if account else []
    set_credentials(account_id=cloud.account.pk, credentials=KEYS, actor=None, now=at(1))


def test_refused_credentials_fail_no_lease_and_are_tried_again_at_once_when_they_change(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [AuthFailed("AWS refused these credentials"), AuthFailed("and again")]
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.PENDING
    assert Shortfall.objects.get(lease=lease, closed_at=None).cause == Shortfall.Cause.LAUNCH_FAILED
    told = Event.objects.filter(kind="launch.failed", organization=None)
    assert "waits for other credentials" in told.get().message
    for minutes in (1.5, 2, 3):
        assert sweep.launch_due(now=at(minutes)) == 0
    assert faults.count("launch") == 1

    enter(cloud, faults)
    sweep.launch_due(now=at(3))  # still wrong
    assert faults.count("launch") == 2
    assert sweep.launch_due(now=at(3.5)) == 0
    assert told.count() == 1
    enter(cloud, faults)
    assert sweep.launch_due(now=at(4)) == 1
    sweep.probe_due(now=at(5))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    assert not Shortfall.objects.filter(closed_at=None).exists()


def test_refused_credentials_are_tried_a_few_times_a_day(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [AuthFailed("refused")] * 60
    for minutes in range(1, 300, 7):
        sweep.launch_due(now=at(minutes))
    assert 9 <= faults.count("launch") <= 25
    faults.before["launch"] = []
    assert sweep.launch_due(now=at(340)) == 1


def test_staff_who_have_given_the_right_need_not_wait(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [AuthFailed("not allowed to launch")]
    sweep.launch_due(now=at(1))
    allocation = the_intent(lease).allocation_id
    assert losses.retry_launch(allocation_id=allocation, actor=make_user(), now=at(2)) == 1
    with pytest.raises(Conflict):
        losses.retry_launch(allocation_id=allocation, actor=make_user(), now=at(2))
    assert sweep.launch_due(now=at(2)) == 1
    assert LaunchIntent.objects.count() == 1


def test_an_empty_listing_by_another_account_proves_nothing(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    enter(cloud, faults, account="999999999999")
    faults.answers["find"] = [[]]
    assert sweep.launch_due(now=at(AFTER_LAG)) == 0
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.CALLING
    assert "999999999999" in intent.last_error
    assert intent.token in intent.last_error
    assert Event.objects.filter(kind="launch.in_doubt", organization=None).count() == 1
    enter(cloud, faults)
    assert sweep.launch_due(now=at(AFTER_LAG + 5)) == 1
    assert faults.count("launch") == 1


def test_a_machine_that_another_account_does_not_know_is_not_lost(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    run_until_active(lease)
    enter(cloud, faults, account="999999999999")
    faults.answers["describe"] = [[]] * 4
    for minutes in (10, 60, 120, 600):
        sweep.probe_due(now=at(minutes))
    assert the_machine(lease).state == Instance.State.RUNNING
    assert Event.objects.filter(kind="account.machines_missing", organization=None).count() == 1
    enter(cloud, faults)
    sweep.probe_due(now=at(700))
    assert faults.count("launch") == 1


def test_a_machine_that_another_account_does_not_know_has_not_ended(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    run_until_active(lease)
    machine = the_machine(lease)
    sweep.end_due(now=END)
    enter(cloud, faults, account="999999999999")
    faults.answers["reclaim"] = [None] * 3
    faults.answers["describe"] = [[]] * 3
    for minutes in (0, 10, 30):
        assert sweep.turnover_due(now=END + timedelta(minutes=minutes)) == 0
    waits = Turnover.objects.get()
    assert machine.provider_id in waits.waits_for
    assert "123456789012" in waits.waits_for  # where it was launched
    assert Event.objects.filter(kind="turnover.failing", organization=None).count() == 1
    machine.refresh_from_db()
    assert machine.state == Instance.State.STOPPING

    # Either the former credentials come back, or somebody ends it by hand and says so.
    cloud.ec2.terminate_instances(InstanceIds=[machine.provider_id])
    turnover.settle(turnover_id=waits.pk, note="Ended it in the console.", actor=make_user(), now=END)
    assert sweep.turnover_due(now=END + timedelta(minutes=40)) == 1


def test_who_the_credentials_are_of_is_asked_once(cloud: Cloud, faults: Faults) -> None:
    providers = upstream.Providers()
    account: Any = ProviderAccount.objects.get(pk=cloud.account.pk)
    assert providers.identity(account) == "123456789012"
    assert providers.identity(account) == "123456789012"
    assert faults.count("test_connection") == 1
    enter(cloud, faults, account="other")
    account.refresh_from_db()
    assert providers.identity(account) == "other"
    faults.before["test_connection"] = [AuthFailed("refused")]
    account.options = {**account.options, "user": "root"}
    assert providers.identity_if_known(account) == ""


def test_staff_settle_a_turnover_in_the_admin(
    cloud: Cloud, lease: Lease, faults: Faults, client: Client
) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    faults.before["reclaim"] = [AuthFailed("refused")]
    sweep.turnover_due(now=END)
    found = Turnover.objects.get()
    staff = make_user(is_staff=True, is_superuser=True)
    client.force_login(staff)
    page = f"/admin/leases/turnover/{found.pk}"
    assert "State that it ended" in client.get(f"{page}/change/").content.decode()
    assert client.post(f"{page}/settle/", {"note": ""}).status_code == 400
    found.refresh_from_db()
    assert found.last_error
    cloud.ec2.terminate_instances(InstanceIds=[the_machine(lease).provider_id])
    assert client.post(f"{page}/settle/", {"note": "Account closed."}).status_code == 302
    assert sweep.turnover_due(now=END + timedelta(days=1)) == 1
    assert "State that it ended" not in client.get(f"{page}/change/").content.decode()
