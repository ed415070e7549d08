"""What staff pages share: rows to look at, and actions that call one function per row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

from portal.accounts.models import User
from portal.common.errors import DomainError

M = TypeVar("M", bound=Model)


class LookOnly(admin.ModelAdmin):
    """Rows that the product writes: staff look, act by actions, and type over nothing."""

    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person's permissions would let them change such rows: for ``permissions=["act"]``."""
        return super().has_change_permission(request)


class LookOnlyInline(admin.TabularInline):
    """Rows of the parent, to look at."""

    extra = 0
    can_delete = False
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def staff(request: HttpRequest) -> User:
    """Return who acts; the admin lets nobody in who has not signed in."""
    assert isinstance(request.user, User)
    return request.user


def each(
    model_admin: admin.ModelAdmin, request: HttpRequest, rows: Iterable[M], act: Callable[[M], object]
) -> None:
    """Call ``act`` for each row, and say what was done and what was refused, with its reason."""
    done = 0
    for row in rows:
        try:
            act(row)
        except DomainError as error:
            model_admin.message_user(request, f"{row}: {error.message}", messages.ERROR)
        else:
            done += 1
    if done:
        text = ngettext("%(n)d row done.", "%(n)d rows done.", done) % {"n": done}
        model_admin.message_user(request, text, messages.SUCCESS)


def as_text(value: Any) -> SafeString:
    """Show JSON as a person reads it."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))
