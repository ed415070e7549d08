"""The sweeps of leases on beat: registered, on their queue, expiring, and safe on an empty database."""

from __future__ import annotations

import pytest

from leases import tasks
from portal.celery import BEAT_SCHEDULE, app

OURS = {entry["task"]: entry for entry in BEAT_SCHEDULE.values() if entry["task"].startswith("leases.")}
NAMES = sorted(OURS)


def test_every_task_is_on_beat() -> None:
    defined = {name for name, found in vars(tasks).items() if hasattr(found, "delay")} - {"shared_task"}
    assert {f"leases.tasks.{name}" for name in defined} == set(NAMES)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_with_nothing_to_do_does_nothing_twice(name: str) -> None:
    app.loader.import_default_modules()
    task = app.tasks[name]
    task()
    task()


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_expires_before_its_next_run(name: str) -> None:
    assert OURS[name]["options"]["expires"] < OURS[name]["schedule"]
    assert app.amqp.router.route({}, name)["queue"].name == "provisioning"
