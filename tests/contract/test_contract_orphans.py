"""What runs upstream and is nobody's: ours is reported, then removed; others' is never touched (P2)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from inventory.providers.base import ResourceKind
from leases.models import Orphan
from leases.provisioning import orphans, sweep
from portal.accounts.models import Event
from tests.contract.counterpart import Counterpart
from tests.contract.stage import Stage, at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.each("kinds")
def test_an_orphan_is_reported_and_removed_after_the_grace(
    stage: Stage, counterpart: Counterpart, how: ResourceKind
) -> None:
    lease = stage.book()
    stage.activate(lease)
    found = stage.add_stranger(stage.our_tags(kind=how), how)
    assert found in counterpart.owned(how)

    assert sweep.find_orphans(now=at(20)) == 1
    orphan = Orphan.objects.get(kind=how)
    assert (orphan.resource_id, orphan.state) == (found, Orphan.State.SEEN)
    assert Event.objects.filter(kind="orphan.seen", organization=None).count() == 1
    assert found in counterpart.owned(how)

    assert sweep.find_orphans(now=at(21) + orphans.grace()) == 0
    counterpart.finish_ending()
    orphan.refresh_from_db()
    assert (orphan.state, orphan.last_error) == (Orphan.State.REMOVED, "")
    assert found not in counterpart.owned(how)
    # And once more changes nothing: the lease's own things are where they were.
    assert sweep.find_orphans(now=at(30) + orphans.grace()) == 0
    assert Orphan.objects.count() == 1


def test_machines_without_our_tags_are_never_touched(stage: Stage, counterpart: Counterpart) -> None:
    stranger = stage.add_stranger({})
    lease = stage.book()
    stage.activate(lease)
    for hours in (1, 2, 23):
        assert sweep.find_orphans(now=at(60 * hours)) == 0
    assert stage.end() == 1
    assert not Orphan.objects.exists()
    assert stranger in counterpart.running()


def test_two_sites_never_touch_each_others_machines(
    stage: Stage, counterpart: Counterpart, settings: Any
) -> None:
    settings.SUBLET_SITE_ID = "site-one"
    lease = stage.book()
    stage.activate(lease)
    [ours] = stage.running()
    theirs = stage.add_stranger(stage.our_tags(site="site-two"))
    for minutes in (20, 60, 120):
        assert sweep.find_orphans(now=at(minutes)) == 0
    assert set(counterpart.running()) == {ours, theirs}

    # The other site finds its own, and only that.
    settings.SUBLET_SITE_ID = "site-two"
    assert sweep.find_orphans(now=at(130)) == 1
    sweep.find_orphans(now=at(131) + orphans.grace())
    counterpart.finish_ending()
    assert set(counterpart.running()) == {ours}


def test_a_machine_that_was_just_launched_is_no_orphan(stage: Stage) -> None:
    lease = stage.book()
    stage.begin(lease)
    assert sweep.find_orphans(now=at(1) + timedelta(seconds=30)) == 0
    stage.run(lease)
    assert sweep.find_orphans(now=at(90)) == 0
