"""Write what allauth does to the event log: sign-ups, addresses, passwords, second factors."""

from __future__ import annotations

from typing import Any

from allauth.account import signals as account
from allauth.mfa import signals as mfa
from django.db import transaction
from django.dispatch import receiver
from django.utils import timezone

from portal.accounts import events
from portal.accounts.models import User


def _record(kind: str, user: User, **after: Any) -> None:
    with transaction.atomic():
        events.record(
            kind=kind,
            subject_type="user",
            subject_id=str(user.pk),
            actor=user,
            now=timezone.now(),
            after={"email": user.email} | after,
        )


@receiver(account.user_signed_up)
def signed_up(user: User, **kwargs: Any) -> None:
    _record("user.signed_up", user)


@receiver(account.email_confirmed)
def email_confirmed(email_address: Any, **kwargs: Any) -> None:
    _record("user.email_confirmed", email_address.user, confirmed=email_address.email)


@receiver(account.email_changed)
def email_changed(user: User, to_email_address: Any, **kwargs: Any) -> None:
    _record("user.email_changed", user, to=to_email_address.email)


@receiver([account.password_set, account.password_changed, account.password_reset])
def password_changed(user: User, **kwargs: Any) -> None:
    _record("user.password_changed", user)


@receiver(mfa.authenticator_added)
def factor_added(user: User, authenticator: Any, **kwargs: Any) -> None:
    _record("user.factor_added", user, type=str(authenticator.type))


@receiver(mfa.authenticator_removed)
def factor_removed(user: User, authenticator: Any, **kwargs: Any) -> None:
    _record("user.factor_removed", user, type=str(authenticator.type))


@receiver(mfa.authenticator_reset)
def codes_renewed(user: User, authenticator: Any, **kwargs: Any) -> None:
    _record("user.factor_renewed", user, type=str(authenticator.type))
