"""What the money pages share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.validators import MinValueValidator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from inventory.admin.base import show_form
from portal.common.errors import DomainError, InvalidInput
from portal.common.money import format_money


def amount(field: str, label: Any, *, places: int | None = None) -> Callable[[Any, Any], str]:
    """Return a list column that shows an amount in the row's currency, right to its minor unit."""

    @admin.display(description=label, ordering=field)
    def column(self: Any, row: Any) -> str:
        value = getattr(row, field)
        return "–" if value is None else format_money(value, row.currency, places=places)

    return column


def buttons(*links: tuple[str, Any]) -> SafeString:
    """Return links that look like buttons: what can be done with this row."""
    return format_html_join(" ", '<a class="button" href="{}">{}</a>', links)


def facts(rows: Mapping[str, Any] | Iterable[tuple[Any, Any]]) -> SafeString:
    """Return names and values as lines of their own; what is empty is left out."""
    if isinstance(rows, Mapping):
        rows = rows.items()
    return format_html_join(
        "", "<div>{}: {}</div>", ((name, value) for name, value in rows if value not in (None, ""))
    )


def form_page(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    *,
    title: str,
    submit: str,
    make: Callable[[Any], forms.Form],
    act: Callable[[Any, dict[str, Any]], tuple[str, Any]],
    pk: int | None = None,
) -> HttpResponse:
    """Show one form, about a row or about none, and call ``act(row, cleaned data)`` when it is sent.

    ``act`` calls a public function and returns the sentence to show and the row to open
    next (``None``: the list). Refusals are shown at their field. Needs the change
    permission, even where the rows themselves are for looking at only.
    """
    if not request.user.has_perm(f"{model_admin.opts.app_label}.change_{model_admin.opts.model_name}"):
        raise PermissionDenied
    row = None if pk is None else model_admin.get_object(request, str(pk))
    if pk is not None and row is None:
        raise Http404
    form = make(row)
    if request.method == "POST" and form.is_valid():
        try:
            said, after = act(row, form.cleaned_data)
        except InvalidInput as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        except DomainError as error:
            form.add_error(None, error.message)
        else:
            messages.success(request, said)
            base = f"admin:{model_admin.opts.app_label}_{model_admin.opts.model_name}"
            target = reverse(f"{base}_change", args=[after.pk]) if after else reverse(f"{base}_changelist")
            return HttpResponseRedirect(target)
    return show_form(model_admin, request, form, title=title, submit=submit, row=row)


SMALLEST = Decimal("0.00000001")


class MoneyField(forms.DecimalField):
    """An amount that staff type; the domain checks what the currency allows."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("label", gettext_lazy("Amount"))
        # Not min_value: its message would read “greater than or equal to 1E-8”.
        above_zero = MinValueValidator(SMALLEST, message=gettext_lazy("Write an amount above zero."))
        kwargs.setdefault("validators", [above_zero])
        super().__init__(max_digits=20, decimal_places=8, **kwargs)
