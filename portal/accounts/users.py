"""A person's own details: name and time zone."""

from __future__ import annotations

import zoneinfo
from datetime import datetime
from functools import lru_cache

from django.utils.translation import gettext as _

from portal.accounts import events
from portal.accounts.models import User
from portal.accounts.texts import clean_line
from portal.common.errors import InvalidInput
from portal.common.transactions import durable


@lru_cache(maxsize=1)
def time_zones() -> list[str]:
    """Return the IANA time zones this machine knows, UTC first."""
    names = {name for name in zoneinfo.available_timezones() if "/" in name and not name.startswith("Etc/")}
    return ["UTC", *sorted(names)]


def zone_of(user: User | None) -> zoneinfo.ZoneInfo:
    """Return the person's time zone; UTC for nobody, or where the zone is unknown here."""
    try:
        return zoneinfo.ZoneInfo(user.time_zone if user else "UTC")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return zoneinfo.ZoneInfo("UTC")


def clean_time_zone(name: str) -> str:
    """Return a known IANA name; raises :class:`InvalidInput`."""
    if name not in time_zones():
        raise InvalidInput(
            _("Choose a time zone by its IANA name, for example Europe/Dublin."), field="time_zone"
        )
    return name


def update_profile(*, user: User, full_name: str, time_zone: str, now: datetime) -> User:
    """Change how the person is called and where their clock is; raises :class:`InvalidInput`."""
    clean = {
        "full_name": clean_line(full_name, field="full_name", longest=150, required=False),
        "time_zone": clean_time_zone(time_zone),
    }
    with durable():
        locked = User.objects.select_for_update(no_key=True, of=("self",)).get(pk=user.pk)
        before = {
            field: getattr(locked, field) for field, value in clean.items() if getattr(locked, field) != value
        }
        if before:
            User.objects.filter(pk=user.pk).update(**clean)
            events.record(
                kind="user.updated",
                subject_type="user",
                subject_id=str(user.pk),
                actor=user,
                now=now,
                before=before,
                after={field: clean[field] for field in before},
            )
    user.full_name, user.time_zone = clean["full_name"], clean["time_zone"]
    return user
