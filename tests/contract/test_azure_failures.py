"""What only Azure does: it accepts a launch, and tells minutes later that there was no room."""

from __future__ import annotations

import pytest

from leases.models import Instance, LaunchIntent, Orphan
from leases.provisioning import sweep
from tests.contract.azure import AzureCounterpart
from tests.contract.stage import Stage, at

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.needs(lambda counterpart: counterpart.kind == "azure"),
]


def test_a_launch_that_fails_later_is_made_again(stage: Stage, counterpart: AzureCounterpart) -> None:
    counterpart.arm.doomed = [("ZonalAllocationFailed", "There is no capacity in zone 1.")]
    lease = stage.book()
    stage.begin(lease)
    [failed] = stage.machines(lease)
    sweep.probe_due(now=at(2))
    failed.refresh_from_db()
    assert failed.state == Instance.State.LOST
    assert failed.end_reason == "There is no capacity in zone 1. (ZonalAllocationFailed)"

    counterpart.finish_ending()
    stage.run(lease, first=4)
    [machine] = stage.machines(lease)
    assert machine.provider_id != failed.provider_id
    assert stage.running() == {machine.provider_id}
    assert counterpart.launch_calls() == 2
    # The remains went at once, and nobody has to be told of an orphan.
    assert sweep.find_orphans(now=at(60)) == 0
    assert not Orphan.objects.exists()


def test_a_lost_answer_of_a_launch_that_failed_later(stage: Stage, counterpart: AzureCounterpart) -> None:
    counterpart.arm.doomed = [("AllocationFailed", "There is no capacity.")]
    lease = stage.book()
    counterpart.lose_launch_answer()
    stage.begin(lease)
    stage.run(lease, first=10)
    assert counterpart.launch_calls() == 2
    states = sorted(LaunchIntent.objects.values_list("state", flat=True))
    assert states == [LaunchIntent.State.FAILED, LaunchIntent.State.LAUNCHED]
    counterpart.finish_ending()
