"""Structured logs: JSON lines in production, readable lines on one machine.

Every line carries the ids that django-structlog binds: of the request, of the
Celery task, and of the request that sent the task.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import structlog

from portal.common.secrecy import clean, without_secrets

# What every line gets, whether it comes from structlog or from the standard library.
SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
]


def _hide_values(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take credentials out of a line's values, before they are escaped: an SDK may log a URL with its key."""
    for name, value in event.items():
        if isinstance(value, str | dict | list):
            event[name] = clean(value)
    return event


def _hide(logger: Any, method: str, line: str) -> str:
    """Take credentials out of the finished line: of a traceback, or of any other object's text."""
    return without_secrets(line)


def configure_structlog() -> None:
    """Send structlog's lines through the standard library's handlers."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logging_config(*, json: bool, level: str) -> dict[str, Any]:
    """Return the ``LOGGING`` setting; ``json`` chooses the format, ``level`` the root's level."""
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, _hide_values, structlog.processors.JSONRenderer()]
        if json
        else [
            _hide_values,
            structlog.dev.ConsoleRenderer(
                colors=False,
                pad_event_to=0,
                # Where rich is installed the default would print local variables, secrets among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "default": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _hide],
                "foreign_pre_chain": SHARED,
            }
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "default"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Django's own handlers would print every line twice.
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": level, "propagate": True},
            # A 403 or 404 is django-structlog's line with its id already; here it comes with forty lines
            # of traceback about a refusal that works.
            "django.request": {"level": "ERROR"},
            # Each of these writes several lines per call at INFO.
            "botocore": {"level": "WARNING"},
            "boto3": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            # django-structlog writes the same, with the request's id.
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "celery.utils.functional": {"level": "WARNING"},
            # Each sweep would write three lines every few seconds, most of them about nothing.
            "django_structlog.celery": {"level": "WARNING"},
        },
    }
