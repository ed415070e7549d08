"""The event log, to read and to search: never to add to, change or delete from."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from portal.accounts.admin.base import LookOnly, as_text
from portal.accounts.models import Event


class SubjectFilter(admin.SimpleListFilter):
    """By the kind of thing an event is about."""

    title = gettext_lazy("about")
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        types = Event.objects.order_by("subject_type").values_list("subject_type", flat=True).distinct()
        return [(name, name.replace("_", " ")) for name in types]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        return queryset.filter(subject_type=self.value()) if self.value() else queryset


@admin.register(Event)
class EventAdmin(LookOnly):
    fields = (
        "at",
        "kind",
        "organization",
        "actor",
        "actor_label",
        "subject_type",
        "subject_id",
        "message",
        "before_text",
        "after_text",
    )
    list_display = ("at", "kind", "organization", "actor_label", "subject_type", "subject_id", "message")
    list_display_links = ("kind",)
    list_filter = (SubjectFilter,)
    list_select_related = ("organization",)
    search_fields = ("kind", "=subject_id", "actor_label", "organization__name", "=organization__uid")
    list_per_page = 100

    @admin.display(description=gettext_lazy("before"))
    def before_text(self, event: Event) -> SafeString:
        return as_text(event.before)

    @admin.display(description=gettext_lazy("after"))
    def after_text(self, event: Event) -> SafeString:
        return as_text(event.after)
