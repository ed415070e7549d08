"""Background work: queues, the beat schedule, and how Celery meets the broker.

The row is the queue: every entry below is a sweep that finds its work by its
state, so a lost message loses nothing and a second beat is harmless.
"""

from __future__ import annotations

import logging.config
import os
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging
from kombu import Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

app = Celery("sublet")
app.config_from_object("django.conf:settings", namespace="CELERY")

QUEUES = ("polling", "provisioning", "billing", "notifications")
HEARTBEAT_SECONDS = 15.0


def every(seconds: float, task: str, *args: Any, **options: Any) -> dict[str, Any]:
    """Return a beat entry that expires before its next run, so that runs never pile up."""
    return {"task": task, "args": args, "schedule": seconds, "options": {"expires": seconds * 0.9, **options}}


def at(schedule: crontab, task: str, *, expires: float) -> dict[str, Any]:
    """Return a beat entry by the clock (UTC); ``expires`` is in seconds."""
    return {"task": task, "schedule": schedule, "options": {"expires": expires}}


# A heartbeat through every queue: a worker that serves three of four queues is not healthy.
BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    f"heartbeat-{queue}": every(HEARTBEAT_SECONDS, "portal.health.heartbeat", queue, queue=queue)
    for queue in QUEUES
}
# Leases and their machines. A sweep that finds nothing is one query.
BEAT_SCHEDULE |= {
    "poll-providers": every(60, "inventory.tasks.poll_due"),
    "forget-old-polls": at(crontab(hour=3, minute=40), "inventory.tasks.forget_old_runs", expires=3600),
    "lapse-holds": every(30, "leases.tasks.lapse_holds"),
    "fill-shortfalls": every(60, "leases.tasks.fill_missing"),
    "start-leases": every(20, "leases.tasks.start_due"),
    "launch-machines": every(20, "leases.tasks.launch_due"),
    "probe-machines": every(15, "leases.tasks.probe_due"),
    "end-leases": every(20, "leases.tasks.end_due"),
    "turn-over-nodes": every(20, "leases.tasks.turnover_due"),
    "announce-ends": every(60, "leases.tasks.notify_due"),
    "find-orphans": every(600, "leases.tasks.find_orphans"),
    "answer-inquiries": every(60, "leases.tasks.answer_inquiries"),
    "settle-purchases": every(30, "leases.tasks.settle_purchases"),
    "check-reservations": every(3600, "leases.tasks.check_reservations"),
    "forget-searches": every(21_600, "leases.tasks.forget_searches"),
}
# The event log goes out.
BEAT_SCHEDULE |= {
    "dispatch-events": every(20, "portal.notifications.tasks.dispatch_events"),
    "send-deliveries": every(20, "portal.notifications.tasks.send_deliveries"),
}
# Money. By the clock where a month or an hour counts: a restarted beat then misses none.
BEAT_SCHEDULE |= {
    "settle-awaiting": every(60, "billing.tasks.settle_awaiting"),
    "meter": at(crontab(minute="5"), "billing.tasks.meter", expires=3000),
    "draft-last-month": at(
        crontab(minute="30", hour="2", day_of_month="1-3"), "billing.tasks.draft_last_month", expires=72_000
    ),
    "reconcile-bills": every(900, "billing.tasks.reconcile_bills"),
    "audit": at(crontab(minute="15", hour="4"), "billing.tasks.audit", expires=72_000),
    "accrue-upstream": at(crontab(minute="40", hour="1"), "billing.tasks.accrue_upstream", expires=72_000),
    "close-last-month": at(
        crontab(minute="0", hour="3", day_of_month="10-12"), "billing.tasks.close_last_month", expires=72_000
    ),
}

# Only update(): it stays lazy, while reading app.conf here would load the settings too early.
app.conf.update(
    # Each with its own routing key: left out, it would be the default queue's for all of them.
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
    task_default_queue="provisioning",
    task_routes={
        "inventory.tasks.*": {"queue": "polling"},
        "leases.tasks.*": {"queue": "provisioning"},
        "billing.tasks.*": {"queue": "billing"},
        "portal.notifications.tasks.*": {"queue": "notifications"},
    },
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_publish_retry=False,
    task_serializer="json",
    accept_content=["json"],
    task_time_limit=30 * 60,
    task_soft_time_limit=25 * 60,
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=1000,
    worker_send_task_events=False,
    broker_connection_timeout=2,
    broker_connection_retry_on_startup=True,
    # A publisher gives a dead broker about a second, then goes on without it. What blocks longer
    # than socket_timeout is a hung server; a worker's own wait for messages is one second at a time.
    broker_transport_options={
        "socket_connect_timeout": 1,
        "socket_timeout": 5,
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.1,
        "visibility_timeout": 3600,
    },
    enable_utc=True,
    timezone="UTC",
    beat_max_loop_interval=5,
    beat_schedule=BEAT_SCHEDULE,
)

app.autodiscover_tasks()
app.autodiscover_tasks(["portal"], related_name="health")


@setup_logging.connect
def use_our_logging(**kwargs: Any) -> None:
    """Keep Celery from installing handlers of its own."""
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
