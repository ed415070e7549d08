"""People: their name and clock, and help for those who lost their second factor."""

from __future__ import annotations

import zoneinfo
from datetime import datetime
from functools import lru_cache

from allauth.mfa.models import Authenticator
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.utils.translation import gettext as _

from portal.accounts import events
from portal.accounts.models import User
from portal.accounts.texts import clean_line
from portal.common.errors import Conflict, InvalidInput
from portal.common.transactions import durable, require_transaction


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


def remove_factors(*, user: User, actor: User, now: datetime) -> int:
    """Remove a person's second factors and recovery codes, for somebody who lost theirs.

    The caller has checked who asks. Their sessions end, so that nobody stays in on
    the strength of what was removed. Returns how many were removed; raises
    :class:`Conflict` when there were none.
    """
    with durable():
        factors = Authenticator.objects.filter(user=user)
        types = sorted(factors.values_list("type", flat=True))
        if not types:
            raise Conflict(_("%(email)s has no second factor.") % {"email": user.email})
        factors.delete()
        end_sessions(user=user, now=now)
        events.record(
            kind="user.factors_removed_by_staff",
            subject_type="user",
            subject_id=str(user.pk),
            actor=actor,
            now=now,
            before={"email": user.email, "types": types},
        )
    return len(types)


def end_sessions(*, user: User, now: datetime) -> None:
    """Part: sign the person out everywhere."""
    require_transaction()
    for session in Session.objects.filter(expire_date__gt=now).iterator():
        if session.get_decoded().get(SESSION_KEY) == str(user.pk):
            session.delete()
