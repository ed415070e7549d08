"""GPU spellings: staff say which model an unknown one is, or leave its types out."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db import models
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory.admin.base import SupplyAdmin
from inventory.gpu_names import forget_answered, normalise
from inventory.models import GpuModel, GpuSpelling
from portal.common.freshness import how_long as age

UNKNOWN = Q(gpu_model=None, ignored=False)
CHOICE = ("gpu_model", "ignored")


class GpuSpellingForm(forms.ModelForm):
    """A spelling is stored folded, however it is typed."""

    class Meta:
        model = GpuSpelling
        fields = ("provider", "spelling", "memory_mib", "gpu_model", "ignored", "note")
        help_texts = {
            "spelling": gettext_lazy(
                "As the provider writes the GPU, or the name of one instance type. "
                "Case, spaces and punctuation do not matter."
            )
        }

    def clean_spelling(self) -> str:
        spelling = normalise(self.cleaned_data["spelling"])
        if not spelling:
            raise forms.ValidationError(_("Enter letters or digits."))
        return spelling


class StateFilter(admin.SimpleListFilter):
    """By what is known of it; the overview links to the unknown ones."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("unknown", _("Unknown")), ("known", _("Known")), ("ignored", _("Left out"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[GpuSpelling]) -> QuerySet[GpuSpelling]:
        match self.value():
            case "unknown":
                return queryset.filter(UNKNOWN)
            case "known":
                return queryset.exclude(gpu_model=None)
            case "ignored":
                return queryset.filter(ignored=True)
        return queryset


@admin.register(GpuSpelling)
class GpuSpellingAdmin(SupplyAdmin):
    """Unknown ones come first, those that are listed most often at the top."""

    form = GpuSpellingForm
    deletable = True
    list_per_page = 25
    list_display = ("spelling", "whose", "memory", *CHOICE, "listed_as", "listed")
    list_editable = CHOICE
    list_filter = (StateFilter, "provider", "source")
    list_select_related = ("provider", "gpu_model")
    search_fields = ("spelling", "example", "gpu_model__name", "gpu_model__slug", "provider__name")
    fields = (
        "provider",
        "spelling",
        "memory_mib",
        *CHOICE,
        "note",
        "source",
        "example",
        "times_listed",
        "first_seen_at",
        "last_seen_at",
    )
    readonly_fields = ("source", "example", "times_listed", "first_seen_at", "last_seen_at")

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        unknown_first = Case(When(UNKNOWN, then=Value(0)), default=Value(1), output_field=IntegerField())
        return (unknown_first.asc(), "-times_listed", "spelling", "memory_mib")

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> type[forms.ModelForm]:
        # Once for all rows: each would ask for the models again.
        choices = [("", "–"), *((model.pk, model.name) for model in GpuModel.objects.order_by("name"))]

        class Row(forms.ModelForm):
            class Meta:
                model = GpuSpelling
                fields = CHOICE

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.fields["gpu_model"].widget = forms.Select()
                self.fields["gpu_model"].choices = choices  # type: ignore[attr-defined]
                named = {"spelling": self.instance.spelling}
                for name, label in (
                    ("gpu_model", _("GPU model of %(spelling)s")),
                    ("ignored", _("Leave %(spelling)s out")),
                ):
                    self.fields[name].widget.attrs["aria-label"] = label % named

        return Row

    def save_model(self, request: HttpRequest, obj: models.Model, form: Any, change: bool) -> None:
        assert isinstance(obj, GpuSpelling)
        if not change or set(CHOICE) & set(form.changed_data):
            obj.source = GpuSpelling.Source.STAFF
        super().save_model(request, obj, form, change)
        forget_answered()

    @admin.display(description=gettext_lazy("provider"), ordering="provider__name")
    def whose(self, row: GpuSpelling) -> str:
        return str(row.provider) if row.provider else _("any")

    @admin.display(description=gettext_lazy("memory"), ordering="memory_mib")
    def memory(self, row: GpuSpelling) -> str:
        return _("%(n)s MiB") % {"n": row.memory_mib} if row.memory_mib else _("any")

    @admin.display(description=gettext_lazy("example or note"), ordering="example", empty_value="–")
    def listed_as(self, row: GpuSpelling) -> str | None:
        return row.example or row.note or None

    @admin.display(description=gettext_lazy("listed"), ordering="times_listed", empty_value="–")
    def listed(self, row: GpuSpelling) -> str | None:
        if not row.last_seen_at:
            return None
        last = {"n": row.times_listed, "age": age(timezone.now() - row.last_seen_at)}
        text = ngettext("%(n)s time, %(age)s ago", "%(n)s times, last %(age)s ago", row.times_listed) % last
        return text.replace(" ", "\u00a0")  # the last column: it would stand on end
