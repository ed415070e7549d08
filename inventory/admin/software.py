"""Software stacks and their images: what each holds, where it is offered, on and off."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory.admin.base import SupplyAdmin, readable, staff
from inventory.models import Node, Region, SoftwareStack, StackImage
from inventory.software import images_of
from portal.accounts import events
from portal.common.html import BAD, GOOD, NEUTRAL, pill

# Leases that have machines to come, or may have to be given others.
PROMISED = ("held", "awaiting", "scheduled", "provisioning", "active")


class ContentsField(forms.CharField):
    """What a stack holds as lines: ``PyTorch = 2.9``; a version may be missing."""

    widget = forms.Textarea

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return "\n".join(
            " = ".join(text for text in (part["name"], part["version"]) if text) for part in value
        )

    def to_python(self, value: Any) -> Any:
        lines = [line for line in str(value or "").splitlines() if line.strip()]
        return [
            {"name": name.strip(), "version": version.strip()}
            for name, _equals, version in (line.partition("=") for line in lines)
        ]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(initial != self.to_python(data))


class ListField(forms.CharField):
    """Several words in one line, with commas between."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [word.strip() for word in str(value or "").split(",") if word.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class StackForm(forms.ModelForm):
    """A person's way to write lists."""

    contents = ContentsField(
        label=gettext_lazy("contents"),
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        help_text=gettext_lazy(
            "One a line, most important first: PyTorch = 2.9. The version may be missing."
        ),
    )
    gpu_families = ListField(
        label=gettext_lazy("GPU families"),
        required=False,
        help_text=gettext_lazy("The only ones that it supports, for example Ampere, Hopper; empty: all."),
    )

    class Meta:
        model = SoftwareStack
        fields = (
            "slug",
            "name",
            "summary",
            "operating_system",
            "contents",
            "gpu_vendor",
            "gpu_families",
            "is_default",
            "enabled",
            "position",
        )


class ImageForm(forms.ModelForm):
    instance_types = ListField(
        label=gettext_lazy("instance types"),
        required=False,
        help_text=gettext_lazy("Names, or beginnings with a star: p5.*, p5en.*; empty: all."),
    )

    region = forms.ModelChoiceField(
        label=gettext_lazy("region"),
        queryset=Region.objects.select_related("provider").order_by("provider__slug", "code"),
        required=False,
        empty_label=gettext_lazy("all"),
        help_text=gettext_lazy("Without one: every region of the provider that has no row of its own."),
    )
    source = forms.URLField(
        label=gettext_lazy("source"),
        required=False,
        assume_scheme="https",
        help_text=gettext_lazy("Where the provider documents it."),
    )

    class Meta:
        model = StackImage
        fields = (
            "stack",
            "provider",
            "region",
            "architecture",
            "instance_types",
            "reference",
            "login_user",
            "enabled",
            "checked_on",
            "source",
            "note",
        )


class ImageInline(admin.TabularInline):
    model = StackImage
    form = ImageForm
    extra = 0
    fields = (
        "provider",
        "region",
        "architecture",
        "instance_types",
        "reference",
        "login_user",
        "enabled",
        "checked_on",
    )
    show_change_link = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[StackImage]:
        return super().get_queryset(request).select_related("provider", "region__provider")


@admin.register(SoftwareStack)
class SoftwareStackAdmin(SupplyAdmin):
    form = StackForm
    deletable = True
    inlines = (ImageInline,)
    list_display = ("name", "holds_", "position", "is_default", "enabled_", "images_", "leases_")
    list_filter = ("enabled", ("images__provider", admin.RelatedOnlyFieldListFilter))
    search_fields = ("name", "slug", "images__reference")
    readonly_fields = ("offered",)
    actions = ("enable", "disable")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SoftwareStack]:
        live = Q(images__enabled=True)
        promised = Q(leases__state__in=PROMISED)
        return (
            super()
            .get_queryset(request)
            .annotate(
                images_n=Count("images", filter=live, distinct=True),
                leases_n=Count("leases", filter=promised, distinct=True),
            )
        )

    def get_fieldsets(self, request: HttpRequest, obj: SoftwareStack | None = None) -> Any:
        fields = list(StackForm.Meta.fields)
        return [(None, {"fields": [*fields, "offered"] if obj else fields})]

    @admin.display(description=gettext_lazy("holds"))
    def holds_(self, stack: SoftwareStack) -> str:
        return ", ".join(stack.holds)

    @admin.display(description=gettext_lazy("state"), ordering="enabled")
    def enabled_(self, stack: SoftwareStack) -> SafeString:
        return pill(_("Offered"), GOOD) if stack.enabled else pill(_("Not offered"), NEUTRAL)

    @admin.display(description=gettext_lazy("images"), ordering="images_n")
    def images_(self, stack: Any) -> SafeString | int:
        return stack.images_n or pill(_("none"), BAD)

    @admin.display(description=gettext_lazy("promised leases"), ordering="leases_n")
    def leases_(self, stack: Any) -> int:
        return int(stack.leases_n)

    @admin.display(description=gettext_lazy("where we hold nodes"))
    def offered(self, stack: SoftwareStack) -> str:
        """List the types and regions of our nodes, each with the image that decides there."""
        held = (
            Node.objects.exclude(health=Node.Health.RETIRED)
            .exclude(commitment=None)
            .values_list(
                "instance_type",
                "region",
                "instance_type__name",
                "instance_type__gpu_model__name",
                "region__provider__slug",
                "region__code",
            )
            .annotate(nodes=Count("pk"))
            .order_by("region__provider__slug", "region__code", "instance_type__name")
        )
        rows = list(held)
        images = images_of(stack=stack, pairs=[(row[0], row[1]) for row in rows])
        places = [
            {
                "type": row[2],
                "gpu": row[3],
                "region": f"{row[4]}/{row[5]}",
                "nodes": row[6],
                "image": images.get((row[0], row[1])),
            }
            for row in rows
        ]
        return render_to_string("admin/inventory/stack_places.html", {"places": places})

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Save the images, and append an event for each that changed."""
        super().save_formset(request, form, formset, change)
        changed = [(image, "added", sorted(image_facts(image))) for image in formset.new_objects]
        changed += [(image, "changed", fields) for image, fields in formset.changed_objects]
        changed += [(image, "removed", sorted(image_facts(image))) for image in formset.deleted_objects]
        for image, what, fields in changed:
            facts = image_facts(image)
            record_image(request, image, what, {name: facts[name] for name in fields if name in facts})

    @admin.action(description=gettext_lazy("Offer to customers"))
    def enable(self, request: HttpRequest, queryset: QuerySet[SoftwareStack]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(description=gettext_lazy("Offer no longer (leases keep it)"))
    def disable(self, request: HttpRequest, queryset: QuerySet[SoftwareStack]) -> None:
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[SoftwareStack], *, enabled: bool) -> None:
        rows = list(SoftwareStack.objects.filter(pk__in=queryset.values("pk"), enabled=not enabled))
        for stack in rows:
            stack.enabled = enabled
            stack.save(update_fields=["enabled"])
            events.record(
                kind="software_stack.changed",
                subject_type="software_stack",
                subject_id=str(stack.pk),
                actor=staff(request),
                now=timezone.now(),
                before={"enabled": not enabled},
                after={"enabled": enabled},
            )
        switched(self, request, len(rows))


@admin.register(StackImage)
class StackImageAdmin(SupplyAdmin):
    """Where each stack is offered: one line for each mapping."""

    form = ImageForm
    deletable = True
    list_display = (
        "stack",
        "provider",
        "region_",
        "architecture",
        "types_",
        "reference",
        "login_user",
        "enabled_",
        "checked_on",
    )
    list_filter = ("provider", "enabled", "architecture", "stack")
    list_select_related = ("stack", "provider", "region")
    search_fields = ("reference", "stack__name", "stack__slug", "region__code", "note")
    actions = ("enable", "disable", "checked")

    @admin.display(description=gettext_lazy("region"), ordering="region")
    def region_(self, image: StackImage) -> str:
        return image.region.code if image.region else _("all")

    @admin.display(description=gettext_lazy("instance types"))
    def types_(self, image: StackImage) -> str:
        return ", ".join(image.instance_types) or _("all")

    @admin.display(description=gettext_lazy("state"), ordering="enabled")
    def enabled_(self, image: StackImage) -> SafeString:
        return pill(_("On"), GOOD) if image.enabled else pill(_("Off"), NEUTRAL)

    @admin.action(description=gettext_lazy("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[StackImage]) -> None:
        self._set(request, queryset, "enabled", True)

    @admin.action(description=gettext_lazy("Disable: nothing more is launched with it"))
    def disable(self, request: HttpRequest, queryset: QuerySet[StackImage]) -> None:
        self._set(request, queryset, "enabled", False)

    @admin.action(description=gettext_lazy("Mark as checked today"))
    def checked(self, request: HttpRequest, queryset: QuerySet[StackImage]) -> None:
        self._set(request, queryset, "checked_on", timezone.localdate())

    def _set(self, request: HttpRequest, queryset: QuerySet[StackImage], field: str, value: Any) -> None:
        rows = [row for row in queryset if getattr(row, field) != value]
        for image in rows:
            setattr(image, field, value)
            image.save(update_fields=[field])
            record_image(request, image, "changed", {field: readable(value)})
        switched(self, request, len(rows))


def image_facts(image: StackImage) -> dict[str, Any]:
    """Return what the event log keeps of an image."""
    return {
        name: readable(getattr(image, name))
        for name in ImageForm.Meta.fields
        if name not in ("stack", "note")
    }


def record_image(request: HttpRequest, image: StackImage, what: str, facts: dict[str, Any]) -> None:
    """Append the event of one image."""
    events.record(
        kind=f"stack_image.{what}",
        subject_type="stack_image",
        subject_id=str(image.pk or ""),
        actor=staff(request),
        now=timezone.now(),
        after={"stack": image.stack.slug, **facts},
    )


def switched(page: admin.ModelAdmin[models.Model], request: HttpRequest, count: int) -> None:
    """Say how many rows were changed."""
    text = ngettext("%(n)s was changed.", "%(n)s were changed.", count) % {"n": count}
    page.message_user(request, text, messages.SUCCESS if count else messages.INFO)
