"""Findings on providers' bills: what differs, and the page to settle it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from billing.admin.base import amount, buttons, form_page
from billing.models import Finding
from billing.vendor import findings
from inventory.admin.base import ReadOnlyAdmin, staff
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, WARN, pill

State = Finding.State
TONES = {State.OPEN: WARN, State.DISPUTED: INFO, State.ACCEPTED: GOOD, State.CURED: NEUTRAL}
AT_ONCE = 200


class SettleForm(forms.Form):
    decision = forms.ChoiceField(
        label=gettext_lazy("Decision"),
        choices=[
            ("accept", gettext_lazy("Accept: we pay it")),
            ("dispute", gettext_lazy("Dispute: we claim it back from the provider")),
            ("reopen", gettext_lazy("Open again")),
        ],
        widget=forms.RadioSelect,
    )
    note = forms.CharField(
        label=gettext_lazy("Why"),
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text=gettext_lazy("For the next reader: a ticket, an answer, a rule."),
    )


@admin.register(Finding)
class FindingAdmin(ReadOnlyAdmin):
    list_display = ("summary", "class_", "amount_", "state_", "account", "month_", "line_count")
    list_filter = ("state", "material", "finding_class", "account", "month")
    list_select_related = ("account",)
    search_fields = ("uid", "summary", "resource_id", "note")
    ordering = ("-month", "-material", "-amount")
    fields = (
        "next_steps",
        "state_",
        "class_",
        "summary",
        "amount_",
        "material",
        "account",
        "month_",
        "resource_id",
        "lines_",
        "bill",
        "first_seen_at",
        "settled_at",
        "settled_by",
        "note",
    )
    readonly_fields = fields
    actions = ("settle",)
    amount_ = amount("amount", gettext_lazy("amount"))

    def has_settle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_finding")

    @admin.action(description=gettext_lazy("Settle…"), permissions=["settle"])
    def settle(self, request: HttpRequest, queryset: QuerySet[Finding]) -> HttpResponse:
        chosen = queryset.order_by("pk").values_list("pk", flat=True)[:AT_ONCE]
        query = urlencode([("pk", pk) for pk in chosen])
        return HttpResponseRedirect(f"{reverse('admin:billing_finding_settle_all')}?{query}")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("settle/", view(self.settle_all_view), name="billing_finding_settle_all"),
            path("<int:pk>/settle/", view(self.settle_view), name="billing_finding_settle"),
            *super().get_urls(),
        ]

    def settle_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(finding: Finding, values: dict[str, Any]) -> tuple[str, Any]:
            settled = findings.settle(
                finding_uid=finding.uid, actor=staff(request), now=timezone.now(), **values
            )
            return f"{settled.get_state_display()}: {settled.summary}", settled

        return form_page(
            self,
            request,
            pk=pk,
            title=_("Settle a finding"),
            submit=_("Settle"),
            make=lambda row: SettleForm(request.POST or None),
            act=act,
        )

    def settle_all_view(self, request: HttpRequest) -> HttpResponse:
        chosen = [pk for pk in request.GET.getlist("pk")[:AT_ONCE] if pk.isdigit()]
        uids = list(Finding.objects.filter(pk__in=chosen).order_by("pk").values_list("uid", flat=True))

        def act(row: Any, values: dict[str, Any]) -> tuple[str, Any]:
            settled = findings.settle_all(
                finding_uids=uids, actor=staff(request), now=timezone.now(), **values
            )
            text = ngettext("%(n)s finding was settled.", "%(n)s findings were settled.", len(settled))
            return text % {"n": len(settled)}, None

        title = ngettext("Settle %(n)s finding", "Settle %(n)s findings", len(uids)) % {"n": len(uids)}
        return form_page(
            self,
            request,
            title=title,
            submit=_("Settle"),
            make=lambda row: SettleForm(request.POST or None),
            act=act,
        )

    @admin.display(description=gettext_lazy("class"), ordering="finding_class")
    def class_(self, finding: Finding) -> str:
        return finding.get_finding_class_display()

    @admin.display(description=gettext_lazy("month"), ordering="month")
    def month_(self, finding: Finding) -> str:
        return f"{finding.month:%Y-%m}"

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, finding: Finding) -> SafeString:
        if finding.state == State.OPEN:
            return pill(_("Open"), BAD if finding.material else WARN)
        return pill(finding.get_state_display(), TONES[State(finding.state)])

    @admin.display(description=gettext_lazy("lines"))
    def lines_(self, finding: Finding) -> str | SafeString:
        if not finding.lines.exists():
            return "–"
        url = reverse("admin:billing_billline_changelist") + f"?finding__id__exact={finding.pk}"
        text = ngettext("%(n)s line", "%(n)s lines", finding.line_count) % {"n": finding.line_count}
        return format_html('<a href="{}">{}</a>', url, text)

    @admin.display(description=gettext_lazy("next"))
    def next_steps(self, finding: Finding) -> str | SafeString:
        if finding.state == State.CURED:
            return "–"
        return buttons((reverse("admin:billing_finding_settle", args=[finding.pk]), _("Settle")))
