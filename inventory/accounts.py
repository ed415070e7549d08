"""Provider accounts: their credentials, kept encrypted, and a test of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers.base import AccountIdentity
from inventory.providers.registry import adapter, provider_for
from portal.accounts import events
from portal.accounts.models import User
from portal.common.crypto import encrypt
from portal.common.errors import InvalidInput
from portal.common.nudge import nudge
from portal.common.secrecy import keep_secret
from portal.common.transactions import durable

LONGEST_VALUE = 8_000  # a service account's key file is about 2,400 characters


def set_credentials(
    *, account_id: int, credentials: Mapping[str, str], actor: User | None, now: datetime
) -> ProviderAccount:
    """Replace an account's credentials, encrypted with the newest key, and poll it soon.

    ``credentials`` holds the adapter's ``credential_fields`` by name; empty optional ones
    are left out. The event names the fields and never a value. Raises
    :class:`InvalidInput` naming the field that is missing, unknown or too long, and
    :class:`~inventory.providers.errors.NotSupported` for a provider without an adapter.
    """
    with durable():
        account = (
            ProviderAccount.objects.select_for_update(no_key=True, of=("self",))
            .select_related("provider")
            .get(pk=account_id)
        )
        fields = {field.name: field for field in adapter(account.provider.kind).credential_fields}
        for name in credentials.keys() - fields.keys():
            raise InvalidInput(
                _("“%(name)s” is no credential of this provider.") % {"name": name}, field=name
            )
        values = {name: credentials.get(name, "").strip() for name in fields}
        for name, value in values.items():
            if fields[name].required and not value:
                raise InvalidInput(_("Enter “%(label)s”.") % {"label": fields[name].label}, field=name)
            if len(value) > LONGEST_VALUE:
                raise InvalidInput(_("“%(label)s” is too long.") % {"label": fields[name].label}, field=name)
        values = {name: value for name, value in values.items() if value}
        keep_secret(values)
        account.credentials = encrypt(values)
        # With new credentials the account starts afresh.
        account.next_poll_at = account.circuit_opened_at = None
        account.poll_failures = 0
        account.save(update_fields=["credentials", "next_poll_at", "circuit_opened_at", "poll_failures"])
        events.record(
            kind="provider_account.credentials_changed",
            subject_type="provider_account",
            subject_id=str(account.pk),
            actor=actor,
            now=now,
            after={"fields": sorted(values)},
        )
    return account


def request_poll(*, account_id: int, now: datetime) -> None:
    """Make an account's next poll due now, and ask a worker to look."""
    with durable():
        ProviderAccount.objects.filter(pk=account_id).update(next_poll_at=now)
        nudge("inventory.tasks.poll_provider", account_id)


def test_connection(*, account_id: int) -> AccountIdentity:
    """Ask the provider whose credentials these are, outside of any transaction.

    Raises :class:`~inventory.providers.errors.ProviderError` with a sentence for staff.
    """
    account = ProviderAccount.objects.select_related("provider").get(pk=account_id)
    return provider_for(account).test_connection()
