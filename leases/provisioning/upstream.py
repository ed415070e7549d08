"""The one door to the providers: outside every transaction, and with our tags."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers import registry
from inventory.providers.base import TAG_ALLOCATION, TAG_LEASE, TAG_SITE, TAG_TOKEN, Capability, Provider
from inventory.providers.errors import ProviderError, TimedOut
from leases.models import CapacityPurchase, LaunchIntent, Lease, SiteIdentity
from leases.provisioning.claims import Clock

log = logging.getLogger(__name__)


# After so many calls without an answer an account is left alone for a while, so that a cloud that
# is down does not keep the others waiting for its timeouts in every sweep.
SILENT_CALLS = 3
REST = timedelta(minutes=1)


@dataclass
class _Connection:
    """An adapter with the credentials that it was made of, and whose they are once somebody asked."""

    fingerprint: str
    provider: Provider
    identity: str | None = None


# Adapters keep their connections open, and are not made for several threads.
_connected = threading.local()


def fingerprint(account: ProviderAccount) -> str:
    """Return what changes whenever the account's credentials or options do; says nothing about them."""
    options = json.dumps(account.options, sort_keys=True).encode()
    return hashlib.sha256(bytes(account.credentials or b"") + b"\0" + options).hexdigest()


def _connect(account: ProviderAccount) -> _Connection:
    """Return the account's adapter, from this thread's last sweep where its settings are the same."""
    known: dict[int, _Connection] = _connected.__dict__.setdefault("adapters", {})
    settings_now = fingerprint(account)
    if account.pk not in known or known[account.pk].fingerprint != settings_now:
        known[account.pk] = _Connection(settings_now, registry.provider_for(account))
    return known[account.pk]


def _resting() -> dict[int, datetime]:
    """Return until when this thread leaves silent accounts alone, by their pk."""
    found: dict[int, datetime] = _connected.__dict__.setdefault("resting", {})
    return found


class Providers:
    """The adapters of one sweep. An account that is silent is left alone for the rest of it.

    With the sweep's ``clock`` it is left alone by the next sweeps of this process too, for a while.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._silent: Counter[int] = Counter()

    @contextmanager
    def of(self, account: ProviderAccount) -> Iterator[Provider]:
        """Give the account's adapter for calls outside of any transaction.

        Raises only :class:`ProviderError`: what an adapter did not foresee may have taken
        effect, so it counts as a doubt. Inside a transaction it is a :class:`RuntimeError`,
        since a provider that hangs would keep the transaction's locks.
        """
        outer = connection.atomic_blocks[-1] if connection.in_atomic_block else None
        if outer is not None and not getattr(outer, "_from_testcase", False):
            raise RuntimeError("Providers are never called inside a transaction: claim, commit, then call.")
        until = _resting().get(account.pk)
        rests = until is not None and self._clock is not None and until > self._clock()
        if rests or self._silent[account.pk] >= SILENT_CALLS:
            raise ProviderError(
                _("%(account)s does not answer at the moment.") % {"account": account}, retryable=True
            )
        try:
            yield _connect(account).provider
            self._silent[account.pk] = 0
        except TimedOut:
            self._silent[account.pk] += 1
            if self._silent[account.pk] == SILENT_CALLS and self._clock is not None:
                _resting()[account.pk] = self._clock() + REST
            raise
        except ProviderError:
            raise
        except Exception as error:
            log.exception("provider_call_failed", extra={"account": account.name})
            raise ProviderError(
                _("The adapter of %(account)s failed unexpectedly (%(kind)s); the log says where.")
                % {"account": account.name, "kind": type(error).__name__},
                retryable=True,
                doubtful=True,
            ) from error

    def capabilities(self, account: ProviderAccount) -> frozenset[Capability]:
        """Return what the account's provider can do, also where it cannot be called now; no call is made."""
        try:
            with self.of(account) as provider:
                return provider.capabilities
        except ProviderError:
            try:
                kind = registry.adapter(account.provider.kind)
            except ProviderError:
                return frozenset()
            return frozenset(getattr(kind, "capabilities", ()))

    def identity(self, account: ProviderAccount) -> str:
        """Return whose credentials the account has, as the provider says it; asked once per process.

        Raises :class:`ProviderError`.
        """
        with self.of(account) as provider:
            connection_ = _connect(account)
            if connection_.identity is None:
                connection_.identity = provider.test_connection().account[:200]
            return connection_.identity

    def identity_if_known(self, account: ProviderAccount) -> str:
        """Return whose credentials the account has, or "" where the provider does not say so now."""
        try:
            return self.identity(account)
        except ProviderError:
            return ""

    def stranger(self, account: ProviderAccount, intent: LaunchIntent | CapacityPurchase) -> str:
        """Return whose credentials the account has now, if not those of the row's last call, else "".

        What such credentials do not know may be there all the same. Credentials that have
        not changed are not asked about, nor those of calls whose owner nobody knew. Raises
        :class:`ProviderError`.
        """
        if not intent.upstream_account or intent.called_with == fingerprint(account):
            return ""
        now_as = self.identity(account)
        return "" if now_as == intent.upstream_account else now_as or _("nobody that it names")


def site_id() -> str:
    """Return this installation's name in tags: ``SUBLET_SITE_ID``, else one made once and kept."""
    configured = str(settings.SUBLET_SITE_ID)
    if configured:
        return configured
    return SiteIdentity.objects.get_or_create(only=True)[0].key


def lease_tags(lease: Lease) -> dict[str, str]:
    """Return the tags of what belongs to a lease as a whole."""
    return {TAG_SITE: site_id(), TAG_LEASE: lease.uid}


def machine_tags(lease: Lease, rows: Sequence[LaunchIntent], *, group: str) -> dict[str, str]:
    """Return the tags of what one launch makes: machines, and the volumes that come with them.

    Which of several machines is for which allocation is decided by the answer, not before.
    """
    alone = {TAG_ALLOCATION: str(rows[0].allocation_id)} if len(rows) == 1 else {}
    return {**lease_tags(lease), TAG_TOKEN: group, **alone}
