"""The Kubernetes API of one CoreWeave cluster: its client, and its errors as ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import yaml
from django.utils.translation import gettext as _
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.generic_resource import create_global_resource
from lightkube.resources.core_v1 import Node

from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.http import LOOPBACK, retry_after

# https://docs.coreweave.com/products/cks/reference/node-pool
NodePool: Any = create_global_resource("compute.coreweave.com", "v1alpha1", "NodePool", "nodepools")

TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
PAGE = 500  # objects of one listing; lightkube asks for the following pages itself
MOST = 100_000
# What would make the client start a program, or read a file of this machine.
UNSAFE = {"exec", "auth-provider", "tokenFile", "client-certificate", "client-key"}


class Cluster:
    """One cluster, reached with a kubeconfig that holds everything it needs."""

    def __init__(self, kubeconfig: str) -> None:
        self.server, config = _config(kubeconfig)
        with translated("connect"):
            # No proxies or certificates of the environment: the kubeconfig says it all.
            self._client = Client(config=config, timeout=TIMEOUT, trust_env=False)

    def pools(self, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return node pools as plain documents, all pages; those with these labels."""
        found = self._list("nodepools", NodePool, labels)
        # Not every API server filters by label; a stranger's pool must never pass for ours.
        return [pool for pool in found if (labels or {}).items() <= labels_of(pool).items()]

    def nodes(self) -> list[dict[str, Any]]:
        return self._list("nodes", Node, None)

    def create_pool(self, manifest: Mapping[str, Any]) -> None:
        with translated("create the node pool"):
            self._client.create(NodePool.from_dict(dict(manifest)))

    def delete_pool(self, name: str) -> None:
        with translated("delete the node pool"):
            self._client.delete(NodePool, name)

    def get_pool(self, name: str) -> dict[str, Any]:
        with translated("node pool"):
            return _plain(self._client.get(NodePool, name))

    def _list(self, action: str, kind: Any, labels: Mapping[str, str] | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with translated(action):
            for item in self._client.list(kind, chunk_size=PAGE, labels=dict(labels) if labels else None):
                found.append(_plain(item))
                if len(found) > MOST:
                    raise BadAnswer(_("%(action)s: the list does not end.") % {"action": action})
        return found


def labels_of(item: Mapping[str, Any]) -> dict[str, str]:
    labels = (item.get("metadata") or {}).get("labels") or {}
    return {str(key): str(value) for key, value in labels.items()}


def _plain(item: Any) -> dict[str, Any]:
    return dict(item if isinstance(item, dict) else item.to_dict())


def _config(text: str) -> tuple[str, Any]:
    """Return the server's address and the configuration of the current context."""
    try:
        document = yaml.safe_load(text)
        clusters, users = document["clusters"], document["users"]
        named = {key for entry in users for key in entry["user"]} | {
            "certificate-authority" for entry in clusters if "certificate-authority" in entry["cluster"]
        }
        config = KubeConfig.from_dict(document).get()
        server = str(config.cluster.server) if config else ""
    except (
        yaml.YAMLError,
        ConfigError,
        msgspec.ValidationError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise AuthFailed(
            _("The kubeconfig cannot be read: paste the whole file that CoreWeave's console offers.")
        ) from error
    if bad := sorted(named & (UNSAFE | {"certificate-authority"})):
        raise AuthFailed(
            _("The kubeconfig must hold the token and certificate themselves, not “%(name)s”.")
            % {"name": bad[0]}
        )
    parts = urlsplit(server)
    if config is None or config.user is None:
        raise AuthFailed(_("The kubeconfig has no current context with a user."))
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise AuthFailed(_("The kubeconfig’s server must begin with https://."))
    if config.cluster.insecure:
        raise AuthFailed(_("The kubeconfig must not switch the check of certificates off."))
    return server, config


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise our errors for everything that lightkube raises; ``action`` starts the sentence."""
    try:
        yield
    except ApiError as error:
        raise _from_status(action, error) from error
    except httpx2.HTTPStatusError as error:
        # A status without a Kubernetes document: a page of something in between.
        raise _page(action, error.response.status_code) from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise TimedOut(
            _("%(action)s: the cluster cannot be reached.") % {"action": action}, doubtful=False
        ) from error
    except httpx2.TimeoutException as error:
        raise TimedOut(_("%(action)s: no answer in time.") % {"action": action}) from error
    except httpx2.HTTPError as error:
        raise TimedOut(
            _("%(action)s: the connection broke (%(kind)s).")
            % {"action": action, "kind": type(error).__name__}
        ) from error
    except (
        json.JSONDecodeError,
        msgspec.MsgspecError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise BadAnswer(
            _("%(action)s: the answer is not what Kubernetes describes.") % {"action": action}
        ) from error


def _page(action: str, status: int) -> ProviderError:
    if status == 401:
        return AuthFailed(_("%(action)s: the cluster refused the token.") % {"action": action})
    if status >= 500:
        return ProviderError(f"{action}: HTTP {status}.", retryable=True, doubtful=True)
    return BadAnswer(
        _("%(action)s: HTTP %(status)s with a page instead of JSON.") % {"action": action, "status": status}
    )


def _from_status(action: str, error: ApiError) -> ProviderError:
    """Turn a Kubernetes Status into our error.

    Reasons: https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go
    A quota that does not cover a pool's nodes fails the whole creation; CoreWeave's webhook
    says so in words only, so the word decides.
    """
    status = error.status
    code, reason = int(status.code or error.response.status_code), str(status.reason or "")
    message = " ".join(str(status.message or "").split())[:300]
    said = f"{action}: {message}" if message else f"{action}: {reason or code}"
    if "quota" in message.lower() and code in (400, 403, 409, 422, 429):
        return QuotaExceeded(said, code=reason)
    if code == 401 or (code == 403 and reason in ("", "Forbidden")):
        return AuthFailed(
            _("%(action)s: the cluster refused the token, or it may not do this.") % {"action": action},
            code=reason,
        )
    if code in (404, 410):
        return NotFound(said, code=reason)
    if code == 429:
        return RateLimited(said, code=reason, retry_after=retry_after(dict(error.response.headers)))
    if code >= 500 or reason in ("Timeout", "ServerTimeout"):
        return ProviderError(said, code=reason, retryable=True, doubtful=True)
    if reason == "Conflict":
        return ProviderError(said, code=reason, retryable=True)
    return ProviderError(said, code=reason)
