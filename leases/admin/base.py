"""What the pages of this app share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from inventory.admin.base import ReadOnlyAdmin, ReadOnlyInline, moment_field


class ActingAdmin(ReadOnlyAdmin):
    """Rows to look at, and actions for those who may change them."""

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person may use the actions, although no field can be typed over."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")


class LookingInline(ReadOnlyInline):
    """A table of a parent's rows: nothing to type, and no second name for each row."""

    template = "admin/leases/table.html"


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=200,
        required=False,
        help_text=gettext_lazy("The customer reads it in the lease's timeline."),
    )


class AgreedForm(forms.Form):
    agreed = forms.BooleanField(
        label=gettext_lazy("The customer agrees"),
        help_text=gettext_lazy("What is on the old server's local disks is lost."),
    )


class PeriodForm(forms.Form):
    start = moment_field(gettext_lazy("From"))
    end = moment_field(gettext_lazy("Until"))


def bound(form: type[forms.Form], request: HttpRequest, initial: dict[str, Any] | None = None) -> forms.Form:
    """Return the form with what was sent, or with its first values."""
    return form(request.POST if request.method == "POST" else None, initial=initial)


def moment(value: datetime | None) -> str:
    """Return a time in the person's zone that never breaks over lines, for computed fields."""
    if value is None:
        return "–"
    return date_format(timezone.localtime(value), "DATETIME_FORMAT").replace(" ", "\u00a0")


def link(row: Model | None, label: object = "") -> str | SafeString:
    """Return a link to the row's page in the admin."""
    if row is None:
        return "–"
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return format_html('<a href="{}">{}</a>', url, label or row)


def button(name: str, row: Model, label: object) -> SafeString:
    """Return a button that opens one of our own pages about the row."""
    return format_html('<a class="button" href="{}">{}</a>', reverse(f"admin:{name}", args=[row.pk]), label)
