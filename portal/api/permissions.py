"""A token does what its scopes say; its creator's role is checked below, with the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext as _
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from portal.accounts.models import ApiToken

if TYPE_CHECKING:  # DRF's views read these classes while they are imported
    from rest_framework.views import APIView


class HasScope(BasePermission):
    """A view may name a ``scope`` for reading; writing takes "lease", which includes reading."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, ApiToken):
            return True
        scope = ApiToken.Scope
        needed = getattr(view, "scope", scope.READ)
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            needed = scope.LEASE
        held = set(request.auth.scopes)
        if scope.LEASE in held:
            held.add(scope.READ)
        self.message = _("The token needs the scope “%(scope)s” for this. Create one that has it.") % {
            "scope": needed
        }
        return needed in held
