"""Keys: staff see which there are, and revoke tokens."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from portal.accounts import tokens
from portal.accounts.admin.base import LookOnly, each, staff
from portal.accounts.models import ApiToken, SSHKey
from portal.common.states import status_pill


@admin.register(ApiToken)
class ApiTokenAdmin(LookOnly):
    """The secret is nowhere; its first characters tell tokens apart."""

    fields = (
        "uid",
        "name",
        "hint",
        "organization",
        "user",
        "scopes",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    )
    list_display = ("name", "hint", "organization", "user", "state", "last_used_at", "expires_at")
    list_select_related = ("organization", "user")
    search_fields = ("name", "hint", "uid", "organization__name", "user__email")
    actions = ("revoke",)

    @admin.display(description=gettext_lazy("state"))
    def state(self, token: ApiToken) -> SafeString:
        if token.revoked_at:
            return status_pill("revoked")
        return status_pill("expired" if token.expires_at <= timezone.now() else "active")

    @admin.action(description=gettext_lazy("Revoke"), permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        def act(token: ApiToken) -> None:
            tokens.withdraw(token=token, actor=staff(request), now=timezone.now())

        each(self, request, queryset, act)


@admin.register(SSHKey)
class SSHKeyAdmin(LookOnly):
    list_display = ("name", "organization", "key_type", "bits", "fingerprint", "created_at")
    list_select_related = ("organization",)
    search_fields = ("name", "fingerprint", "uid", "organization__name")
