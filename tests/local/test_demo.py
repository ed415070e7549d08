"""The demo is the main job, played through the product: once, and correctly."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from billing.models import BillLine, Finding, Invoice
from leases.models import Instance, LaunchIntent, Lease, Shortfall
from portal.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)


def rows() -> dict[str, int]:
    """Return the number of rows of every table."""
    return {model._meta.label: model._default_manager.count() for model in apps.get_models()}


def test_the_demo_plays_once_and_all_invariants_hold(settings: Any, moto_ec2: str) -> None:
    settings.SUBLET_EC2_ENDPOINT = moto_ec2
    out = StringIO()
    call_command("demo", stdout=out)
    text = out.getvalue()
    assert re.search(r"All [0-9]+ invariants hold\.", text)
    assert "sublet-demo" in text

    states = dict.fromkeys(Lease.State.values, 0)
    for lease in Lease.objects.all():
        states[lease.state] += 1
    assert {name for name, count in states.items() if count} == {
        "active",
        "awaiting",
        "cancelled",
        "ended",
        "scheduled",
    }
    assert Instance.objects.filter(state=Instance.State.RUNNING).count() == sum(
        lease.allocations.count() for lease in Lease.objects.filter(state=Lease.State.ACTIVE)
    )
    assert not Shortfall.objects.filter(closed_at=None).exists()
    # Two leases chose their software, and their machines started from its image.
    chosen = Lease.objects.exclude(stack=None)
    assert {lease.name for lease in chosen} == {"perception-v4", "pretrain-13b"}
    started = LaunchIntent.objects.filter(allocation__lease__in=chosen)
    assert {(intent.image, intent.login_user) for intent in started} == {("ami-12c6146b", "ubuntu")}
    assert set(
        LaunchIntent.objects.exclude(allocation__lease__in=chosen).values_list("image", flat=True)
    ) == {""}
    assert Invoice.objects.exclude(number="").count() == 3
    # The four planted faults are found, and nothing else is.
    planted = {
        BillLine.Class.DUPLICATE,
        BillLine.Class.ORPHAN_TAIL,
        BillLine.Class.ORPHAN_UNKNOWN,
        BillLine.Class.PRICE_VARIANCE,
    }
    found = list(Finding.objects.filter(material=True, state="open").values_list("finding_class", flat=True))
    assert sorted(found) == sorted(planted)

    before = rows()
    call_command("demo", stdout=out)
    assert "nothing was added" in out.getvalue()
    assert rows() == before


def test_the_demo_is_for_local_mode_only(settings: Any) -> None:
    settings.SUBLET_LOCAL = False
    with pytest.raises(CommandError, match="local mode"):
        call_command("demo")
    assert not User.objects.exists()


def test_the_demo_leaves_a_database_in_use_alone(settings: Any) -> None:
    settings.SUBLET_EC2_ENDPOINT = "http://127.0.0.1:1"
    User.objects.create_user("somebody@example.com")
    before = rows()
    with pytest.raises(CommandError, match="in use"):
        call_command("demo")
    assert rows() == before
