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
from portal.common.secrecy import keep_secret

BUILT_IN: Mapping[str, str] = {
    "aws": "inventory.providers.aws.Ec2Provider",
    "azure": "inventory.providers.azure.AzureProvider",
    "coreweave": "inventory.providers.coreweave.CoreWeaveProvider",
    "crusoe": "inventory.providers.crusoe.CrusoeProvider",
    "gcp": "inventory.providers.gcp.GcpProvider",
    "lambda": "inventory.providers.lambda_cloud.LambdaProvider",
    "metal": "inventory.providers.metal.MetalProvider",
    "nebius": "inventory.providers.nebius.NebiusProvider",
    "runpod": "inventory.providers.runpod.RunPodProvider",
    "together": "inventory.providers.together.TogetherProvider",
    "vast": "inventory.providers.vast.VastProvider",
}

# Adapters whose SDK is not part of the base install, and what adds it.
REQUIREMENTS: Mapping[str, str] = {
    "azure": "requirements-azure.txt",
    "coreweave": "requirements-coreweave.txt",
    "gcp": "requirements-gcp.txt",
    "nebius": "requirements-nebius.txt",
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
        try:
            return cast(Adapter, import_string(path))
        except ImportError as error:
            if error.name == path.rpartition(".")[0]:  # an adapter that this version has not
                raise _missing(kind) from error
            if kind not in REQUIREMENTS or _is_ours(error):
                raise
            raise NotSupported(
                _("The SDK for “%(kind)s” is not installed (%(module)s): pip install -r %(file)s")
                % {"kind": kind, "module": error.name, "file": REQUIREMENTS[kind]}
            ) from error
    for entry in entry_points(group=GROUP, name=kind):
        return cast(Adapter, entry.load())
    raise _missing(kind)


def _missing(kind: str) -> NotSupported:
    return NotSupported(
        _("No adapter is installed for “%(kind)s”: import its prices as a rate card instead.")
        % {"kind": kind}
    )


def _is_ours(error: ImportError) -> bool:
    """Tell whether what is missing is a module of Sublet's own, which no requirement brings."""
    return (error.name or "inventory").partition(".")[0] == "inventory"


def provider_for(account: ProviderAccount) -> Provider:
    """Return the adapter of an account, with its credentials opened; makes no call upstream.

    Raises :class:`NotSupported` without an adapter and :class:`AuthFailed` without credentials.
    """
    make = adapter(account.provider.kind)
    if not account.credentials:
        raise AuthFailed(_("%(account)s has no credentials: enter them first.") % {"account": account})
    credentials = decrypt(account.credentials)
    keep_secret(credentials)
    return make(credentials=credentials, settings=account.options)
