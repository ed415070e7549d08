"""What our admin pages share: events for every change, and pages with one form."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import DomainError, InvalidInput

CAMEL = re.compile(r"(?<!^)(?=[A-Z])")  # ProviderAccount -> provider_account


class SupplyAdmin(admin.ModelAdmin):
    """Every added or changed row appends an event; rows that others refer to are kept."""

    list_per_page = 50
    show_full_result_count = False
    deletable = False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return self.deletable and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: models.Model, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        fields = form.changed_data if change else list(form.cleaned_data)
        if change and not fields:
            return
        name = CAMEL.sub("_", str(obj._meta.object_name)).lower()
        events.record(
            kind=f"{name}.{'changed' if change else 'added'}",
            subject_type=name,
            subject_id=str(getattr(obj, "uid", obj.pk)),
            actor=staff(request),
            now=timezone.now(),
            before={name: readable(form.initial.get(name)) for name in fields} if change else {},
            after={name: readable(form.cleaned_data.get(name)) for name in fields},
        )


class ReadOnlyAdmin(SupplyAdmin):
    """Rows that the product writes: staff look, and nothing can be typed over."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


class ReadOnlyInline(admin.TabularInline):
    """Rows of a parent, for looking at."""

    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def staff(request: HttpRequest) -> User:
    """Return who acts; the admin lets nobody in who has not signed in."""
    assert isinstance(request.user, User)
    return request.user


def readable(value: Any) -> Any:
    """Return a form's value as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, str, dict, list)):
        return value
    return str(value)


class LocalDateTime(forms.DateTimeInput):
    """The browser's own date and time, to the minute, in the person's zone."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(format="%Y-%m-%dT%H:%M")


def moment_field(label: Any, *, help_text: Any = "") -> forms.DateTimeField:
    """Return a field for one moment; it has one label, unlike the admin's two inputs."""
    return forms.DateTimeField(label=label, widget=LocalDateTime(), help_text=help_text)


def span(start: datetime, end: datetime) -> str:
    """Return a long period as its dates in the person's zone: ``1 Dec 2026 – 1 Dec 2027``."""
    return f"{day(start)} – {day(end)}"


def day(moment: datetime) -> str:
    """Return a date in the person's zone that never breaks over lines."""
    return date_format(timezone.localtime(moment), "j M Y").replace(" ", "\u00a0")


def form_page(
    model_admin: SupplyAdmin,
    request: HttpRequest,
    pk: int,
    *,
    title: str,
    submit: str,
    make: Callable[[Any, HttpRequest], forms.Form],
    act: Callable[[Any, dict[str, Any]], str],
    allowed: bool | None = None,
) -> HttpResponse:
    """Show one form about one row, and call ``act(row, cleaned data)`` when it is sent.

    ``act`` calls a public function and returns the sentence to show; its refusals are
    shown at their field. Runs outside of a transaction. ``allowed`` decides for pages of
    rows that nobody may type over, where the permission to change is always refused.
    """
    row = model_admin.get_object(request, str(pk))
    if row is None:
        raise Http404
    if not (model_admin.has_change_permission(request, row) if allowed is None else allowed):
        raise PermissionDenied
    form = make(row, request)
    if request.method == "POST" and form.is_valid():
        try:
            messages.success(request, act(row, form.cleaned_data))
        except InvalidInput as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        except DomainError as error:
            form.add_error(None, error.message)
        else:
            name = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
            return HttpResponseRedirect(reverse(name, args=[row.pk]))
    return show_form(model_admin, request, form, title=title, submit=submit, row=row)


def show_form(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    form: forms.Form,
    *,
    title: str,
    submit: str,
    row: Any = None,
) -> HttpResponse:
    """Show a form on a page of its own; ``row`` is what it is about, where there is one."""
    context = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "submit": submit,
        "form": form,
        "row": row,
        "opts": model_admin.opts,
        "media": model_admin.media + form.media,
    }
    status = 400 if form.errors else 200
    return TemplateResponse(request, "admin/inventory/form_page.html", context, status=status)
