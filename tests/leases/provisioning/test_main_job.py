"""A lease from its start to its end, on machines of an independent EC2 server."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from leases.models import Access, Instance, LaunchIntent, Lease, LeaseNetwork, Turnover
from leases.provisioning import sweep
from leases.provisioning.ssh import ssh_command
from leases.provisioning.timeline import timeline
from tests.factories import Fleet, make_organization, make_ssh_key
from tests.leases.provisioning.conftest import (
    ED25519,
    END,
    Cloud,
    Faults,
    at,
    book,
    problems,
    run_until_active,
    the_intent,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]


def test_a_lease_starts_runs_and_ends(cloud: Cloud, lease: Lease) -> None:
    assert sweep.start_due(now=at(1)) == 1
    intent = the_intent(lease)
    assert (intent.state, intent.attempts) == (LaunchIntent.State.PENDING, 0)
    assert cloud.machines() == []

    assert sweep.launch_due(now=at(1)) == 1
    [machine] = cloud.machines()
    tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
    assert tags["sublet:lease"] == lease.uid
    assert tags["sublet:token"] == intent.token
    assert tags["sublet:allocation"] == str(intent.allocation_id)
    assert tags["sublet:site"].startswith("site_")

    assert sweep.probe_due(now=at(2)) == 1
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    allocation = lease.allocations.get()
    assert at(2) <= allocation.delivered.lower < at(3)
    assert allocation.delivered.upper is None
    access = Access.objects.get(lease=lease)
    assert ssh_command(access) == f"ssh ubuntu@{machine['PublicIpAddress']}"

    assert sweep.end_due(now=END) == 1
    lease.refresh_from_db()
    access.refresh_from_db()
    allocation.refresh_from_db()
    assert lease.state == Lease.State.ENDING
    assert access.revoked_at == END
    assert allocation.delivered.upper == END
    assert sweep.turnover_due(now=END + timedelta(minutes=1)) == 1
    assert cloud.machines() == []
    turnover = Turnover.objects.get(allocation=allocation)
    assert turnover.ended_at and turnover.wiped_at and turnover.completed_at
    assert turnover.evidence[machine["InstanceId"]]["state"] == "terminated"
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert (cloud.groups(), cloud.keys()) == ([], [])
    assert LeaseNetwork.objects.get(lease=lease).removed_at

    states = [entry.state for entry in reversed(timeline(lease)) if entry.state]
    assert states == ["held", "scheduled", "provisioning", "active", "ending", "ended"]


def test_nothing_starts_before_the_term(cloud: Cloud, lease: Lease) -> None:
    assert sweep.start_due(now=at(-1)) == 0
    lease.refresh_from_db()
    assert lease.state == Lease.State.SCHEDULED
    assert not LaunchIntent.objects.exists()
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))


def test_every_sweep_changes_nothing_the_second_time(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    for minute in (1, 1, 2, 2):
        sweep.run_all(now=at(minute))
    assert faults.count("launch") == 1
    assert Access.objects.filter(lease=lease).count() == 1
    for minute in (0, 0, 1, 1):
        sweep.run_all(now=END + timedelta(minutes=minute))
    assert Turnover.objects.count() == 1
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED


def test_a_lease_becomes_active_with_its_last_node(cloud: Cloud, fleet: Fleet, faults: Faults) -> None:
    lease = book(nodes=2)
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    assert len(cloud.machines()) == 2
    assert len(cloud.groups()) == 1
    assert sweep.probe_due(now=at(2)) == 2
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE


def test_the_firewall_lets_in_the_customer_and_the_lease_itself(cloud: Cloud, fleet: Fleet) -> None:
    lease = book(allowed_addresses=["203.0.113.0/24", "2001:db8::/48"])
    run_until_active(lease)
    [group] = cloud.groups()
    [machine] = cloud.machines()
    assert [found["GroupId"] for found in machine["SecurityGroups"]] == [group["GroupId"]]
    rules = {
        (
            rule["IpProtocol"],
            rule.get("FromPort"),
            *(source["CidrIp"] for source in rule["IpRanges"]),
            *(source["CidrIpv6"] for source in rule.get("Ipv6Ranges", [])),
            *("itself" for pair in rule["UserIdGroupPairs"] if pair["GroupId"] == group["GroupId"]),
        )
        for rule in group["IpPermissions"]
    }
    flat = {item for rule in rules for item in rule[2:]}
    assert flat == {"203.0.113.0/24", "2001:db8::/48", "itself"}
    assert {rule[1] for rule in rules if "itself" not in rule} == {22}


def test_one_key_is_a_key_pair_and_several_are_user_data(cloud: Cloud, fleet: Fleet) -> None:
    organization = make_organization()
    first, second = (make_ssh_key(organization=organization, name=name) for name in ("one", "two"))
    type(first).objects.filter(pk=first.pk).update(public_key=ED25519)
    one = book(organization=organization, ssh_keys=[first])
    both = book(organization=organization, ssh_keys=[first, second])
    assert sweep.start_due(now=at(1)) == 2
    sweep.launch_due(now=at(1))

    def user_data(lease: Lease) -> str:
        answer: dict[str, Any] = cloud.ec2.describe_instance_attribute(
            InstanceId=the_machine(lease).provider_id, Attribute="userData"
        )
        return base64.b64decode(answer["UserData"].get("Value", "")).decode()

    by_id = {machine["InstanceId"]: machine for machine in cloud.machines()}
    assert by_id[the_machine(one).provider_id]["KeyName"] == f"sublet-{one.uid}"
    assert user_data(one) == ""
    second.refresh_from_db()
    assert user_data(both).startswith("#cloud-config")
    assert ED25519 in user_data(both)
    assert second.public_key in user_data(both)


def test_the_launch_targets_the_reservation_and_nothing_else(lease: Lease) -> None:
    from leases.provisioning.journal import launch_group

    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    group = launch_group([intent], group=intent.token)
    assert group.reservation_id == "cr-0123456789abcdef0"
    assert group.client_token == the_intent(lease).token


def test_a_machine_that_only_runs_is_not_delivered_by_ssh(cloud: Cloud, lease: Lease) -> None:
    cloud.account.delivery_probe = "ssh"
    # Nothing listens there: moto's addresses lead nowhere, and this port is closed.
    cloud.account.options["ssh_port"] = 1
    cloud.account.save()
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    Instance.objects.update(public_ip="127.0.0.1")
    from leases.provisioning import probe

    assert not probe.ssh_answers("127.0.0.1", 1, timeout=1)
    lease.refresh_from_db()
    assert lease.state == Lease.State.PROVISIONING
    assert problems() == []
