"""Losing Redis loses no booking: a nudge gives up, the cache forgets."""

from __future__ import annotations

import time

import pytest
from celery import Celery, current_app
from django.core.cache import caches
from django.db import transaction

from portal.cache import ForgetfulRedisCache
from portal.celery import BEAT_SCHEDULE, QUEUES
from portal.common.nudge import nudge


@pytest.fixture
def dead_broker(monkeypatch):
    """Our Celery app, but with a broker address that nothing listens on."""
    from portal.celery import app

    dead = Celery("dead", set_as_current=False)
    dead.conf.update({**app.conf.changes, "broker_url": "redis://127.0.0.1:1/0"})
    monkeypatch.setattr("portal.common.nudge.current_app", dead)


@pytest.mark.django_db(transaction=True)
def test_a_nudge_to_a_dead_broker_ends_soon_and_quietly(dead_broker, caplog):
    began = time.monotonic()
    with transaction.atomic():
        nudge("portal.health.heartbeat", "polling")
    assert "nudge_failed" in caplog.text
    assert time.monotonic() - began < 30  # it would retry for ever; the exact time is the machine's


@pytest.mark.django_db(transaction=True)
def test_a_nudge_reaches_its_queue(settings):
    import redis

    client = redis.Redis.from_url(settings.CELERY_BROKER_URL)
    client.delete(*QUEUES)
    with transaction.atomic():
        nudge("inventory.tasks.poll_provider", 1)
        assert client.llen("polling") == 0  # only after commit
    assert {queue: client.llen(queue) for queue in QUEUES} == {
        "polling": 1,
        "provisioning": 0,
        "billing": 0,
        "notifications": 0,
    }
    client.delete(*QUEUES)


def test_the_cache_forgets_instead_of_failing():
    cache = ForgetfulRedisCache("redis://127.0.0.1:1/1", {"OPTIONS": {"socket_connect_timeout": 1}})
    cache.set("a", 1)
    assert cache.get("a", "default") == "default"
    assert cache.add("a", 1) is True
    assert cache.get_many(["a"]) == {}
    assert cache.delete("a") is False
    assert cache.incr("a") == 1
    assert cache.get_or_set("a", 5) == 5


def test_the_cache_works():
    cache = caches["default"]
    cache.set("works", {"a": 1}, 10)
    assert cache.get("works") == {"a": 1}
    cache.delete("works")


def test_every_beat_entry_expires_before_its_next_run_and_names_a_task():
    current_app.loader.import_default_modules()
    for name, entry in BEAT_SCHEDULE.items():
        assert entry["task"] in current_app.tasks, name
        if isinstance(entry["schedule"], int | float):
            assert entry["options"]["expires"] < entry["schedule"], name
        else:
            assert entry["options"]["expires"] > 0, name
