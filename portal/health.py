"""``/healthz``: does the whole product live, not only this web process?

Beat stamps Redis when it sends a heartbeat for each queue; a worker stamps when
it runs one. The age of these stamps is the health of beat and of the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import redis
from celery import shared_task
from celery.signals import after_task_publish, beat_init
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse

from portal.celery import HEARTBEAT_SECONDS, QUEUES

PATH = "/healthz"
TASK = "portal.health.heartbeat"
# Four missed heartbeats: a restart of a worker is not an outage.
STALE_SECONDS = 4 * HEARTBEAT_SECONDS
BEAT_KEY = "sublet:heartbeat:beat"
WORKER_KEY = "sublet:heartbeat:worker:{queue}"


@lru_cache(maxsize=2)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=2)


def _stamp(key: str) -> None:
    _client(settings.CELERY_BROKER_URL).set(key, repr(time.time()), ex=24 * 3600)


@shared_task(name=TASK)
def heartbeat(queue: str) -> None:
    """Prove that a worker consumes ``queue``."""
    _stamp(WORKER_KEY.format(queue=queue))


@beat_init.connect
def stamp_when_beat_sends(**kwargs: Any) -> None:
    """In the beat process only: stamp whenever a heartbeat is sent, and send the first at once."""

    @after_task_publish.connect(sender=TASK, weak=False)
    def stamp(**kwargs: Any) -> None:
        _stamp(BEAT_KEY)

    for queue in QUEUES:
        heartbeat.apply_async(args=(queue,), queue=queue, expires=HEARTBEAT_SECONDS)


def _age(stamp: bytes | str | None) -> float | None:
    return None if stamp is None else round(max(0.0, time.time() - float(stamp)), 1)


def _alive(age: float | None) -> dict[str, Any]:
    return {"ok": age is not None and age <= STALE_SECONDS, "age_seconds": age}


def _database() -> dict[str, Any]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the database is not usable
        return {"ok": False, "age_seconds": None}
    return {"ok": True, "age_seconds": 0.0}


def report() -> dict[str, dict[str, Any]]:
    """Return for each part whether it lives and the seconds since it last proved so (``None``: never)."""
    down = {"ok": False, "age_seconds": None}
    try:
        stamps = _client(settings.CELERY_BROKER_URL).mget(
            [BEAT_KEY, *(WORKER_KEY.format(queue=queue) for queue in QUEUES)]
        )
    except redis.exceptions.RedisError:
        return {"database": _database(), "broker": down, "worker": down, "beat": down}
    beat, *workers = (_age(stamp) for stamp in stamps)
    known = [age for age in workers if age is not None]
    worker = _alive(max(known) if len(known) == len(QUEUES) else None)
    worker["queues"] = {queue: _alive(age) for queue, age in zip(QUEUES, workers, strict=True)}
    return {
        "database": _database(),
        "broker": {"ok": True, "age_seconds": 0.0},
        "worker": worker,
        "beat": _alive(beat),
    }


class HealthMiddleware:
    """Answer ``/healthz`` before hosts, TLS redirects, sessions and users are looked at.

    A load balancer asks by address and over plain HTTP, and the answer must come
    while the database is down.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path != PATH:
            return self.get_response(request)
        parts = report()
        status = 200 if all(part["ok"] for part in parts.values()) else 503
        answer = JsonResponse(parts, status=status, headers={"Cache-Control": "no-store"})
        answer._has_been_logged = True  # type: ignore[attr-defined]  # asked every few seconds: the answer is enough
        return answer
