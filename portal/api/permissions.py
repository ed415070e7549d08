"""A token does what its scopes say; its creator's role is checked below, with the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from portal.accounts.models import ApiToken

if TYPE_CHECKING:  # DRF's views read these classes while they are imported
    from rest_framework.views import APIView


class HasScope(BasePermission):
    """The view names its ``scope``; one that writes names ``write_scope`` as well."""

    message = "The token lacks the scope for this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, ApiToken):
            return True
        safe = request.method in ("GET", "HEAD", "OPTIONS")
        needed = getattr(view, "scope", ApiToken.Scope.READ)
        if not safe:
            needed = getattr(view, "write_scope", ApiToken.Scope.LEASE)
        self.message = f"The token needs the scope “{needed}” for this. Create one that has it."
        return needed in request.auth.scopes
