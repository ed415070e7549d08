"""Adapters by kind: ours by dotted path, others by entry point.

A package adds a cloud with an entry point in the group ``sublet.providers`` whose name
is the kind and whose object is called as ``Adapter(credentials=…, settings=…)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers.base import CredentialField, Provider
from inventory.providers.errors import AuthFailed, NotSupported
from portal.common.crypto import decrypt

BUILT_IN: Mapping[str, str] = {
    "aws": "inventory.providers.aws.Ec2Provider",
}
GROUP = "sublet.providers"


class Adapter(Protocol):
    """A class or factory of adapters, and what staff must enter for it."""

    credential_fields: tuple[CredentialField, ...]

    def __call__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> Provider: ...


def kinds() -> list[str]:
    """Return the kinds that can be polled and launched on."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def adapter(kind: str) -> Adapter:
    """Return the adapter for ``kind``; a built-in kind cannot be replaced.

    Raises :class:`NotSupported` for a kind that nothing provides: its prices can be
    imported as a rate card, but it can be neither polled nor launched on.
    """
    if path := BUILT_IN.get(kind):
        return cast(Adapter, import_string(path))
    for entry in entry_points(group=GROUP, name=kind):
        return cast(Adapter, entry.load())
    raise NotSupported(
        _("No adapter is installed for “%(kind)s”: import its prices as a rate card instead.")
        % {"kind": kind}
    )


def provider_for(account: ProviderAccount) -> Provider:
    """Return the adapter of an account, with its credentials opened; makes no call upstream.

    Raises :class:`NotSupported` without an adapter and :class:`AuthFailed` without credentials.
    """
    make = adapter(account.provider.kind)
    if not account.credentials:
        raise AuthFailed(_("%(account)s has no credentials: enter them first.") % {"account": account})
    return make(credentials=decrypt(account.credentials), settings=account.options)
