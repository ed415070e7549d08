"""What carries our tag upstream and nobody recorded: seen, reported, removed after a grace (P2)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from inventory.providers.errors import ProviderError, TimedOut
from leases.models import Lease, Orphan
from leases.provisioning import orphans, sweep
from leases.provisioning.claims import LISTING_LAG
from leases.provisioning.upstream import site_id
from portal.accounts.models import Event
from portal.common.errors import Conflict, InvalidInput
from tests.concurrency import race
from tests.factories import make_account, make_user
from tests.leases.provisioning.conftest import Cloud, Faults, at, run_until_active, the_intent

pytestmark = pytest.mark.django_db(transaction=True)


def machines_of(cloud: Cloud) -> set[str]:
    return {machine["InstanceId"] for machine in cloud.machines()}


def test_a_machine_that_nobody_recorded_is_reported_and_removed_after_the_grace(
    cloud: Cloud, lease: Lease
) -> None:
    run_until_active(lease)
    ours = machines_of(cloud)
    cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    assert sweep.find_orphans(now=at(5)) >= 1
    found = Orphan.objects.get(kind="instance")
    assert (found.state, found.first_seen_at >= at(5)) == (Orphan.State.SEEN, True)
    assert Event.objects.filter(kind="orphan.seen", subject_id=str(found.pk), organization=None).exists()

    assert sweep.find_orphans(now=at(30)) == 0
    assert len(cloud.machines()) == 2
    sweep.find_orphans(now=at(36))
    assert machines_of(cloud) == ours
    found.refresh_from_db()
    assert found.state == Orphan.State.REMOVED
    assert Event.objects.filter(kind="orphan.removed", organization=None).exists()


def test_the_second_machine_of_a_launch_is_the_orphan_and_not_the_recorded_one(
    cloud: Cloud, lease: Lease
) -> None:
    run_until_active(lease)
    ours = machines_of(cloud)
    intent = the_intent(lease)
    cloud.run(sublet_site=site_id(), sublet_token=intent.token, sublet_lease=lease.uid)
    sweep.find_orphans(now=at(5))
    assert Orphan.objects.get(kind="instance").reason == "One machine more than its launch was for."
    sweep.find_orphans(now=at(60))
    assert machines_of(cloud) == ours


def test_another_site_and_other_people_are_never_touched(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    cloud.run(sublet_site="site_of_staging", sublet_token="lau_theirs", sublet_lease="lse_theirs")
    cloud.run(sublet_token="lau_untagged")
    cloud.run(Name="database")
    for minutes in (5, 60, 600):
        assert sweep.find_orphans(now=at(minutes)) == 0
    assert len(cloud.machines()) == 4
    assert not Orphan.objects.exists()


def test_a_second_account_with_the_same_credentials_takes_nothing_from_the_first(
    cloud: Cloud, lease: Lease
) -> None:
    run_until_active(lease)
    ours = machines_of(cloud)
    make_account(
        credentials=cloud.account.credentials,
        options=cloud.account.options,
        delivery_probe=cloud.account.delivery_probe,
    )
    for minutes in (5, 60, 90):
        assert sweep.find_orphans(now=at(minutes)) == 0
    assert machines_of(cloud) == ours
    assert len(cloud.groups()) == 1


def test_a_launch_under_way_is_given_time(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    for minutes in (2, 50, 100):
        assert sweep.find_orphans(now=at(minutes)) == 0
    assert len(cloud.machines()) == 1
    assert sweep.launch_due(now=at(101)) == 1


def test_a_network_that_is_being_made_is_given_time(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.after["prepare_lease"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    assert sweep.find_orphans(now=at(2)) == 0
    assert len(cloud.groups()) == 1


def test_a_left_firewall_and_volume_are_orphans_too(cloud: Cloud) -> None:
    tags = [{"Key": "sublet:site", "Value": site_id()}, {"Key": "sublet:lease", "Value": "lse_gone"}]
    cloud.ec2.create_security_group(
        GroupName="sublet-lse_gone",
        Description="left",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )
    cloud.ec2.create_volume(
        AvailabilityZone="us-east-1a",
        Size=1,
        TagSpecifications=[{"ResourceType": "volume", "Tags": tags}],
    )
    assert sweep.find_orphans(now=at(1)) == 2
    sweep.find_orphans(now=at(60))
    assert cloud.groups() == []
    assert cloud.ec2.describe_volumes()["Volumes"] == []
    assert set(Orphan.objects.values_list("kind", "state")) == {("network", "removed"), ("volume", "removed")}


def test_what_staff_have_explained_stays(cloud: Cloud) -> None:
    cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    sweep.find_orphans(now=at(1))
    machine = Orphan.objects.get(kind="instance")
    with pytest.raises(InvalidInput) as refused:
        orphans.explain(orphan_id=machine.pk, note=" ", actor=make_user(), now=at(2))
    assert refused.value.field == "note"
    machine.refresh_from_db()
    assert machine.state == Orphan.State.SEEN

    orphans.explain(orphan_id=machine.pk, note="Benchmark until Friday.", actor=make_user(), now=at(2))
    sweep.find_orphans(now=at(600))
    machine.refresh_from_db()
    assert (machine.state, machine.note) == (Orphan.State.EXPLAINED, "Benchmark until Friday.")
    assert len(cloud.machines()) == 1


def test_what_goes_by_itself_is_gone_and_cannot_be_explained(cloud: Cloud) -> None:
    machine = cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    sweep.find_orphans(now=at(1))
    cloud.ec2.terminate_instances(InstanceIds=[machine])
    sweep.find_orphans(now=at(2))
    found = Orphan.objects.get(kind="instance")
    assert found.state == Orphan.State.GONE
    with pytest.raises(Conflict):
        orphans.explain(orphan_id=found.pk, note="It was mine.", actor=make_user(), now=at(3))


def test_a_listing_that_fails_changes_nothing(cloud: Cloud, faults: Faults) -> None:
    cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    sweep.find_orphans(now=at(1))
    faults.before["list_owned"] = [TimedOut("no answer in time")]
    assert sweep.find_orphans(now=at(2)) == 0
    assert Orphan.objects.get(kind="instance").state == Orphan.State.SEEN


def test_a_removal_that_fails_is_visible_and_tried_again(cloud: Cloud, faults: Faults) -> None:
    cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    sweep.find_orphans(now=at(1))
    faults.before["remove"] = [ProviderError("termination is disabled")] * 2
    sweep.find_orphans(now=at(40))
    assert "termination is disabled" in Orphan.objects.get(kind="instance").last_error
    sweep.find_orphans(now=at(90))
    sweep.find_orphans(now=at(140))
    assert Orphan.objects.get(kind="instance").state == Orphan.State.REMOVED
    assert cloud.machines() == []


def test_two_searches_at_once_report_and_remove_once(cloud: Cloud, faults: Faults) -> None:
    cloud.run(sublet_site=site_id(), sublet_token="lau_never")
    assert sum(race([lambda: sweep.find_orphans(now=at(1))] * 4)) == 1
    race([lambda: sweep.find_orphans(now=at(60))] * 4)
    assert Orphan.objects.count() == 1
    assert faults.count("remove") == 1
    assert Event.objects.filter(kind="orphan.removed").count() == 1


def test_many_unknown_machines_at_once_are_left_to_staff(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like a database restored from a backup: ending the machines would end customers' work."""
    monkeypatch.setattr(orphans, "MACHINES_AT_ONCE", 2)
    for _number in range(3):
        cloud.run(sublet_site=site_id(), sublet_token="lau_lost")
    sweep.find_orphans(now=at(1))
    sweep.find_orphans(now=at(60))
    assert len(cloud.machines()) == 3
    assert Event.objects.filter(kind="orphan.too_many", organization=None).count() == 1
    one = Orphan.objects.filter(kind="instance").first()
    assert one is not None
    orphans.explain(orphan_id=one.pk, note="Known.", actor=make_user(), now=at(61))
    sweep.find_orphans(now=at(62))
    assert len(cloud.machines()) == 1


def test_a_recorded_machine_that_the_listing_lacks_is_looked_at(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    [machine] = machines_of(cloud)
    now = at(3) + LISTING_LAG
    sweep.probe_due(now=now)
    cloud.ec2.terminate_instances(InstanceIds=[machine])
    sweep.find_orphans(now=now)
    sweep.probe_due(now=now + timedelta(seconds=2))  # not due otherwise
    assert lease.allocations.count() == 2


def test_the_site_is_named_once_or_by_the_setting(cloud: Cloud, settings: Any) -> None:
    names = race([site_id] * 8)
    assert len(set(names)) == 1
    settings.SUBLET_SITE_ID = "eu-production"
    assert site_id() == "eu-production"
