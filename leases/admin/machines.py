"""Machines, the launch journal, turnovers, networks and orphans."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.admin.base import ReadOnlyAdmin, form_page, staff
from leases.admin.base import ActingAdmin, bound, button, link, moment
from leases.models import Access, Instance, LaunchIntent, LeaseNetwork, Orphan, Turnover
from leases.provisioning import losses, orphans
from leases.provisioning import turnover as turnovers
from leases.provisioning.ssh import ssh_command
from portal.common.states import BAD, GOOD, INFO, NEUTRAL, WARN, status_pill


class EvidenceForm(forms.Form):
    note = forms.CharField(
        label=gettext_lazy("How do you know?"),
        max_length=300,
        required=False,
        help_text=gettext_lazy("Only where the provider cannot say it. The next customer gets this node."),
    )


class OfAllocation:
    """Columns of rows that belong to an allocation."""

    @admin.display(description=gettext_lazy("lease"), ordering="allocation__lease")
    def lease_(self, row: Any) -> str | SafeString:
        return link(row.allocation.lease)

    @admin.display(description=gettext_lazy("node"), ordering="allocation__node__name")
    def node_(self, row: Any) -> str | SafeString:
        return link(row.allocation.node)


@admin.register(Instance)
class InstanceAdmin(OfAllocation, ReadOnlyAdmin):
    list_display = (
        "provider_id",
        "state_",
        "lease_",
        "node_",
        "account",
        "public_ip",
        "launched_at",
        "ready_at",
        "ended_at",
    )
    list_filter = ("state", "account")
    list_select_related = ("account", "allocation__lease", "allocation__node")
    search_fields = ("uid", "provider_id", "public_ip", "allocation__lease__uid", "allocation__node__name")
    date_hierarchy = "launched_at"
    fields = (
        "uid",
        "provider_id",
        "state_",
        "end_reason",
        "lease_",
        "node_",
        "account",
        "intent",
        "public_ip",
        "private_ip",
        "accesses_",
        "launched_at",
        "ready_at",
        "last_seen_at",
        "ended_at",
    )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, instance: Instance) -> SafeString:
        tone = BAD if instance.state == Instance.State.LOST else ""
        return status_pill(instance.state, instance.get_state_display(), tone)

    @admin.display(description=gettext_lazy("access"))
    def accesses_(self, instance: Instance) -> str | SafeString:
        open_ones = Access.objects.filter(instance=instance, revoked_at=None)
        return format_html("<code>{}</code>", " ".join(ssh_command(access) for access in open_ones)) or "–"


INTENT_TONES = {
    LaunchIntent.State.PENDING: INFO,
    LaunchIntent.State.CALLING: WARN,
    LaunchIntent.State.LAUNCHED: GOOD,
    LaunchIntent.State.FAILED: BAD,
    LaunchIntent.State.ABANDONED: NEUTRAL,
}


@admin.register(LaunchIntent)
class LaunchIntentAdmin(OfAllocation, ActingAdmin):
    list_display = (
        "token",
        "state_",
        "lease_",
        "node_",
        "attempts",
        "next_try_at",
        "last_error",
        "created_at",
    )
    list_filter = ("state", "account")
    list_select_related = ("account", "allocation__lease", "allocation__node")
    search_fields = ("token", "group", "allocation__lease__uid", "allocation__node__name", "last_error")
    fields = (
        "token",
        "group",
        "state_",
        "lease_",
        "node_",
        "account",
        "attempts",
        "called_at",
        "next_try_at",
        "last_error",
        "created_at",
        "retry",
    )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, intent: LaunchIntent) -> SafeString:
        state = LaunchIntent.State(intent.state)
        return status_pill(state, state.label, INTENT_TONES[state])

    @admin.display(description=gettext_lazy("again"))
    def retry(self, intent: LaunchIntent) -> str | SafeString:
        if intent.state != LaunchIntent.State.FAILED and not intent.refused_with:
            return "–"
        return button("leases_launchintent_retry", intent, _("Launch again"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.retry_view)
        return [path("<int:pk>/retry/", view, name="leases_launchintent_retry"), *super().get_urls()]

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(intent: LaunchIntent, values: dict[str, Any]) -> str:
            losses.retry_launch(allocation_id=intent.allocation_id, actor=staff(request), now=timezone.now())
            return _("The launch is tried again.")

        return form_page(
            self,
            request,
            pk,
            title=_("Launch again"),
            submit=_("Launch again"),
            make=lambda intent, request: bound(forms.Form, request),
            act=act,
            allowed=self.has_act_permission(request),
        )


@admin.register(Turnover)
class TurnoverAdmin(OfAllocation, ActingAdmin):
    list_display = (
        "node_",
        "lease_",
        "state_",
        "requested_at",
        "ended_at",
        "completed_at",
        "attempts",
        "waits_for",
        "last_error",
    )
    list_filter = (("completed_at", admin.EmptyFieldListFilter),)
    list_select_related = ("allocation__lease", "allocation__node")
    search_fields = ("allocation__lease__uid", "allocation__node__name", "last_error")
    fields = (
        "node_",
        "lease_",
        "state_",
        "requested_at",
        "ended_at",
        "wiped_at",
        "completed_at",
        "evidence_",
        "attempts",
        "next_try_at",
        "waits_for",
        "last_error",
        "settle",
    )

    @admin.display(description=gettext_lazy("state"), ordering="completed_at")
    def state_(self, turnover: Turnover) -> SafeString:
        if turnover.completed_at:
            return status_pill("complete", _("Complete"))
        if turnover.last_error:
            return status_pill("failing", _("Failing"), BAD)
        if turnover.waits_for:
            return status_pill("waiting", _("Waiting"), WARN)
        return status_pill("ending", _("Ending"))

    @admin.display(description=gettext_lazy("evidence"))
    def evidence_(self, turnover: Turnover) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(turnover.evidence, indent=2, ensure_ascii=False))

    @admin.display(description=gettext_lazy("by hand"))
    def settle(self, turnover: Turnover) -> str | SafeString:
        if turnover.completed_at or not (turnover.waits_for or turnover.last_error):
            return "–"
        return button("leases_turnover_settle", turnover, _("State that it ended"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.settle_view)
        return [path("<int:pk>/settle/", view, name="leases_turnover_settle"), *super().get_urls()]

    def settle_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(turnover: Turnover, values: dict[str, Any]) -> str:
            turnovers.settle(
                turnover_id=turnover.pk, note=values["note"], actor=staff(request), now=timezone.now()
            )
            return _("Your statement is the evidence: the node is free in a moment.")

        return form_page(
            self,
            request,
            pk,
            title=_("State that the machine ended and was wiped"),
            submit=_("State it"),
            make=lambda turnover, request: bound(EvidenceForm, request),
            act=act,
            allowed=self.has_act_permission(request),
        )


@admin.register(LeaseNetwork)
class LeaseNetworkAdmin(ReadOnlyAdmin):
    list_display = (
        "lease_",
        "account",
        "region",
        "firewall_id",
        "key_name",
        "prepared_at",
        "removed_at",
        "last_error",
    )
    list_filter = ("account", "region", ("removed_at", admin.EmptyFieldListFilter))
    list_select_related = ("lease", "account", "region__provider")
    search_fields = ("lease__uid", "firewall_id", "key_name")
    fields = (
        "lease_",
        "account",
        "region",
        "firewall_id",
        "key_name",
        "created_at",
        "prepared_at",
        "removed_at",
        "attempts",
        "next_try_at",
        "last_error",
    )

    @admin.display(description=gettext_lazy("lease"), ordering="lease")
    def lease_(self, network: LeaseNetwork) -> str | SafeString:
        return link(network.lease)


class ExplainForm(forms.Form):
    note = forms.CharField(
        label=gettext_lazy("Why it may stay"),
        max_length=200,
        required=False,
        help_text=gettext_lazy("It is then kept, and goes on costing money."),
    )


@admin.register(Orphan)
class OrphanAdmin(ActingAdmin):
    list_display = (
        "resource_id",
        "kind",
        "state_",
        "reason",
        "account",
        "region_code",
        "first_seen_at",
        "removed_",
        "last_error",
    )
    list_filter = ("state", "kind", "account", "region_code")
    list_select_related = ("account",)
    search_fields = ("resource_id", "reason", "note", "tags")
    fields = (
        "resource_id",
        "kind",
        "account",
        "region_code",
        "state_",
        "reason",
        "note",
        "tags_",
        "first_seen_at",
        "last_seen_at",
        "removed_at",
        "attempts",
        "last_error",
        "explain",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Orphan]:
        return super().get_queryset(request).order_by("-last_seen_at", "-pk")

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, orphan: Orphan) -> SafeString:
        tone = {Orphan.State.SEEN: BAD, Orphan.State.EXPLAINED: WARN}.get(Orphan.State(orphan.state), NEUTRAL)
        return status_pill(orphan.state, orphan.get_state_display(), tone)

    @admin.display(description=gettext_lazy("is removed"))
    def removed_(self, orphan: Orphan) -> str:
        if orphan.state == Orphan.State.SEEN:
            return moment(max(orphan.first_seen_at + orphans.grace(), orphan.next_try_at))
        return moment(orphan.removed_at)

    @admin.display(description=gettext_lazy("tags"))
    def tags_(self, orphan: Orphan) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(orphan.tags, indent=2, ensure_ascii=False))

    @admin.display(description=gettext_lazy("keep"))
    def explain(self, orphan: Orphan) -> str | SafeString:
        if orphan.state not in (Orphan.State.SEEN, Orphan.State.EXPLAINED):
            return "–"
        return button("leases_orphan_explain", orphan, _("Explain"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.explain_view)
        return [path("<int:pk>/explain/", view, name="leases_orphan_explain"), *super().get_urls()]

    def explain_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(orphan: Orphan, values: dict[str, Any]) -> str:
            orphans.explain(
                orphan_id=orphan.pk, note=values["note"], actor=staff(request), now=timezone.now()
            )
            return _("It is kept.")

        return form_page(
            self,
            request,
            pk,
            title=_("Explain"),
            submit=_("Keep it"),
            make=lambda orphan, request: bound(ExplainForm, request, {"note": orphan.note}),
            act=act,
            allowed=self.has_act_permission(request),
        )
