"""``/healthz`` says 200 only when every part proved that it lives."""

from __future__ import annotations

import time

import pytest
import redis

from portal import health
from portal.celery import QUEUES


@pytest.fixture
def stamps(settings):
    client = redis.Redis.from_url(settings.CELERY_BROKER_URL)
    keys = [health.BEAT_KEY, *(health.WORKER_KEY.format(queue=queue) for queue in QUEUES)]
    client.delete(*keys)
    yield client
    client.delete(*keys)


def beat_and_work() -> None:
    health._stamp(health.BEAT_KEY)
    for queue in QUEUES:
        health.heartbeat(queue)


@pytest.mark.django_db
def test_all_alive(client, stamps):
    beat_and_work()
    answer = client.get("/healthz", headers={"host": "10.0.0.7"})  # a load balancer asks by address
    assert answer.status_code == 200
    parts = answer.json()
    assert set(parts) == {"database", "broker", "worker", "beat"}
    assert all(part["ok"] and part["age_seconds"] < 5 for part in parts.values())
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.django_db
@pytest.mark.parametrize("missing", ["beat", *QUEUES])
def test_one_silent_part_is_down(client, stamps, missing):
    beat_and_work()
    old = time.time() - health.STALE_SECONDS - 1
    stamps.set(health.BEAT_KEY if missing == "beat" else health.WORKER_KEY.format(queue=missing), repr(old))
    answer = client.get("/healthz")
    assert answer.status_code == 503
    parts = answer.json()
    part = "beat" if missing == "beat" else "worker"
    assert {name for name in parts if not parts[name]["ok"]} == {part}
    assert parts[part]["age_seconds"] > health.STALE_SECONDS


@pytest.mark.django_db
def test_never_seen_is_down(client, stamps):
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["worker"]["age_seconds"] is None


@pytest.mark.django_db
def test_a_dead_broker_is_reported_not_raised(client, settings):
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert {name: part["ok"] for name, part in answer.json().items()} == {
        "database": True,
        "broker": False,
        "worker": False,
        "beat": False,
    }
