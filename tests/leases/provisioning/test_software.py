"""Machines start from the image of the lease's software, as the mapping says at the launch."""

from __future__ import annotations

import boto3
import pytest

from inventory.models import StackImage
from leases.models import Access, LaunchIntent, Shortfall
from leases.provisioning import losses, sweep
from leases.provisioning.ssh import ssh_commands
from portal.accounts.models import Event
from tests.factories import Fleet, make_image, make_stack, make_user
from tests.leases.provisioning.conftest import (
    REGION,
    Cloud,
    Faults,
    at,
    book,
    run_until_active,
    the_intent,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]
# Two that the server knows; the account's own image is another.
AMI, OTHER, OWN = "ami-03cf127a", "ami-0b301ce3ce347599c", "ami-12c6146b"


def the_ami(cloud: Cloud) -> str:
    [machine] = cloud.machines()
    return str(machine["ImageId"])


def test_the_image_and_its_user(cloud: Cloud, fleet: Fleet) -> None:
    stack = make_stack(images={"aws": OTHER})
    make_image(stack=stack, region=REGION, reference=AMI, login_user="clear")
    lease = run_until_active(book(stack="pytorch"))
    assert the_ami(cloud) == AMI
    assert (the_intent(lease).image, the_intent(lease).login_user) == (AMI, "clear")
    [command] = ssh_commands(lease)
    assert command.startswith("ssh clear@")


def test_the_user_is_the_account_s_where_the_image_names_none(cloud: Cloud, fleet: Fleet) -> None:
    make_stack(images={"aws": AMI})
    cloud.account.options["user"] = "ec2-user"
    cloud.account.save()
    run_until_active(book(stack="pytorch"))
    assert Access.objects.get().username == "ec2-user"


def test_a_parameter_is_read_at_the_launch(cloud: Cloud, fleet: Fleet) -> None:
    ssm = boto3.client(
        "ssm",
        region_name=REGION,
        endpoint_url=cloud.endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    make_stack(images={"aws": "/sublet/pytorch/ami-id"})
    lease = book(stack="pytorch")
    ssm.put_parameter(Name="/sublet/pytorch/ami-id", Value=AMI, Type="String")
    run_until_active(lease)
    assert the_ami(cloud) == AMI
    assert the_intent(lease).image == "/sublet/pytorch/ami-id"


def test_what_was_remapped_before_the_start_is_launched_as_it_is_now(cloud: Cloud, fleet: Fleet) -> None:
    make_stack(images={"aws": OTHER})
    lease = book(stack="pytorch")
    StackImage.objects.update(reference=AMI)
    run_until_active(lease)
    assert the_ami(cloud) == AMI


def test_without_software_the_account_s_own_image_starts(cloud: Cloud, fleet: Fleet) -> None:
    make_stack(images={"aws": OTHER})
    lease = run_until_active(book())
    assert the_ami(cloud) == OWN
    assert the_intent(lease).image == ""


@pytest.mark.parametrize("how", ["disabled", "removed", "for another architecture"])
def test_an_image_that_is_missing_at_the_launch_fails_readably_and_nothing_else_is_launched(
    cloud: Cloud, fleet: Fleet, faults: Faults, how: str
) -> None:
    make_stack(images={"aws": AMI})
    lease = book(stack="pytorch")
    if how == "disabled":
        StackImage.objects.update(enabled=False)
    elif how == "removed":
        StackImage.objects.all().delete()
    else:
        StackImage.objects.update(architecture="arm64")

    sweep.start_due(now=at(1))
    for minutes in (1, 5, 30):
        assert sweep.launch_due(now=at(minutes)) == 0
    assert faults.count("launch") == 0
    assert cloud.machines() == []
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.FAILED
    assert "“Pytorch” has no enabled image for p5.48xlarge in aws/us-east-1 (x86-64)" in intent.last_error
    told = Event.objects.get(kind="launch.failed", organization=None)
    assert "Software stacks" in told.message
    assert Shortfall.objects.get().cause == Shortfall.Cause.LAUNCH_FAILED

    StackImage.objects.all().delete()
    make_image(stack=lease.stack, reference=AMI)
    losses.retry_launch(allocation_id=lease.allocations.get().pk, actor=make_user(), now=at(31))
    assert sweep.launch_due(now=at(31)) == 1
    assert the_ami(cloud) == AMI
    sweep.probe_due(now=at(32))
    assert Shortfall.objects.get().closed_at


def test_a_reference_that_the_cloud_does_not_know_is_a_failure_too(cloud: Cloud, fleet: Fleet) -> None:
    make_stack(images={"aws": "ssm:/sublet/nowhere"})
    lease = book(stack="pytorch")
    sweep.start_due(now=at(1))
    assert sweep.launch_due(now=at(1)) == 0
    assert cloud.machines() == []
    assert the_intent(lease).state == LaunchIntent.State.FAILED
    assert "ParameterNotFound" in the_intent(lease).last_error
