"""Sign-in for tests: the SDK sends no bearer token over plain HTTP, and Microsoft Entra is not here.

Whatever an account's credentials are becomes the token, which the counterpart checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline import PipelineRequest, policies

from inventory.providers.azure import AzureProvider

NEVER = 2**33  # seconds since 1970


def token(credentials: Mapping[str, Any]) -> str:
    return "-".join(str(credentials[name]) for name in ("tenant_id", "client_id", "client_secret"))


class PlainCredential:
    def __init__(self, credentials: Mapping[str, Any]) -> None:
        self._token = token(credentials)

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self._token, NEVER)


class PlainPolicy(policies.SansIOHTTPPolicy[Any, Any]):
    """What the SDK's own policy does, without its demand for HTTPS."""

    def __init__(self, credential: PlainCredential) -> None:
        self._credential = credential

    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.headers["Authorization"] = f"Bearer {self._credential.get_token().token}"


class LocalAzure(AzureProvider):
    """The adapter as it is, signed in for a counterpart on this machine."""

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        credential = PlainCredential(credentials)
        super().__init__(
            credentials=credentials,
            settings=settings,
            credential=credential,
            authentication_policy=PlainPolicy(credential),
        )
