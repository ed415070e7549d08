"""Credentials are stored encrypted, named in events by field only, and can be rotated."""

from __future__ import annotations

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from inventory.accounts import set_credentials, test_connection
from inventory.management.commands.rotate_secrets import encrypted_columns
from inventory.models import ProviderAccount
from inventory.providers.errors import AuthFailed, NotSupported, ProviderError
from inventory.providers.registry import adapter, kinds, provider_for
from portal.accounts.models import Event, User
from portal.common.crypto import decrypt, encrypt
from portal.common.errors import InvalidInput
from tests.inventory.conftest import KEYS, make_account

ask = test_connection
del test_connection  # pytest would collect it

pytestmark = pytest.mark.django_db


def test_credentials_are_encrypted_and_never_in_the_event(now):
    account = make_account(credentials=None, next_poll_at=now)

    set_credentials(account_id=account.pk, credentials={**KEYS, "session_token": " "}, actor=None, now=now)

    account.refresh_from_db()
    assert KEYS["secret_access_key"].encode() not in bytes(account.credentials)
    assert decrypt(account.credentials) == KEYS
    assert account.next_poll_at is None
    event = Event.objects.get(kind="provider_account.credentials_changed")
    assert event.after == {"fields": ["access_key_id", "secret_access_key"]}
    assert KEYS["secret_access_key"] not in str(event.__dict__)


@pytest.mark.parametrize(
    ("credentials", "field"),
    [
        ({"access_key_id": "x"}, "secret_access_key"),
        ({**KEYS, "password": "x"}, "password"),
        ({**KEYS, "access_key_id": "x" * 9000}, "access_key_id"),
    ],
)
def test_what_cannot_be_stored_changes_nothing(credentials, field, now):
    account = make_account(credentials=encrypt({"old": "one"}))
    with pytest.raises(InvalidInput) as refusal:
        set_credentials(account_id=account.pk, credentials=credentials, actor=None, now=now)
    assert refusal.value.field == field
    account.refresh_from_db()
    assert decrypt(account.credentials) == {"old": "one"}
    assert not Event.objects.exists()


def test_a_provider_without_an_adapter_takes_none(now):
    account = make_account("", slug="nebius", credentials=None)
    with pytest.raises(NotSupported, match="import its prices as a rate card"):
        set_credentials(account_id=account.pk, credentials=KEYS, actor=None, now=now)


def test_a_connection_test_says_whose_they_are(moto_ec2):
    account = make_account(options={"endpoint_url": moto_ec2})
    assert ask(account_id=account.pk).account == "123456789012"


def test_a_connection_test_without_credentials():
    with pytest.raises(AuthFailed, match="has no credentials"):
        ask(account_id=make_account(credentials=None).pk)


def test_adapters_are_found_by_kind(monkeypatch):
    assert "aws" in kinds()
    assert provider_for(make_account()).kind == "aws"
    with pytest.raises(ProviderError):
        adapter("moonbase")


def test_rotation_moves_every_secret_to_the_newest_key(settings, capsys):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.SUBLET_FERNET_KEYS = [old]
    account = make_account(credentials=encrypt(KEYS))
    make_account(name="empty", credentials=None)

    settings.SUBLET_FERNET_KEYS = [new, old]
    call_command("rotate_secrets")

    settings.SUBLET_FERNET_KEYS = [new]
    assert decrypt(ProviderAccount.objects.get(pk=account.pk).credentials) == KEYS
    assert "inventory.ProviderAccount.credentials: 1 rotated" in capsys.readouterr().out


def test_rotation_reaches_second_factors(settings):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.SUBLET_FERNET_KEYS = [old]
    person = User.objects.create_user("one@example.com")
    secrets = {
        Authenticator.Type.TOTP: {"secret": encrypt("JBSWY3DPEHPK3PXP").decode()},
        Authenticator.Type.RECOVERY_CODES: {"seed": encrypt("abc").decode(), "used_mask": 0},
        Authenticator.Type.WEBAUTHN: {"name": "key", "credential": {"id": "plain"}},
    }
    for kind, data in secrets.items():
        Authenticator.objects.create(user=person, type=kind, data=data)

    settings.SUBLET_FERNET_KEYS = [new, old]
    call_command("rotate_secrets")

    settings.SUBLET_FERNET_KEYS = [new]
    found = dict(Authenticator.objects.values_list("type", "data"))
    assert decrypt(found["totp"]["secret"].encode()) == "JBSWY3DPEHPK3PXP"
    assert decrypt(found["recovery_codes"]["seed"].encode()) == "abc"
    assert found["recovery_codes"]["used_mask"] == 0
    assert found["webauthn"] == secrets["webauthn"]


def test_rotation_names_what_no_key_opens_and_leaves_it(settings):
    lost = Fernet(Fernet.generate_key()).encrypt(b"{}")
    account = make_account(credentials=lost)
    good = make_account(name="good")
    with pytest.raises(CommandError, match=f"inventory.ProviderAccount {account.pk}"):
        call_command("rotate_secrets")
    assert bytes(ProviderAccount.objects.get(pk=account.pk).credentials) == lost
    assert decrypt(ProviderAccount.objects.get(pk=good.pk).credentials) == KEYS


def test_every_binary_column_is_a_secret_or_a_hash():
    columns = {f"{model._meta.label}.{name}" for model, name in encrypted_columns()}
    assert {"inventory.ProviderAccount.credentials", "leases.Access.secret"} <= columns
    assert not any(column.endswith("hash") for column in columns)
