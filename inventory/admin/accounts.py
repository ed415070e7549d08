"""Provider accounts: write-only credentials, a connection test, polls and what they found."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory import circuit
from inventory.accounts import request_poll, set_credentials, test_connection
from inventory.admin.base import ReadOnlyAdmin, SupplyAdmin, form_page, staff
from inventory.models import PollRun, ProviderAccount
from inventory.providers.errors import NotSupported, ProviderError
from inventory.providers.registry import adapter
from portal.common.freshness import how_long as age
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, WARN, pill

POLL_TONES = {
    PollRun.State.RUNNING: INFO,
    PollRun.State.COMPLETE: GOOD,
    PollRun.State.PARTIAL: WARN,
    PollRun.State.FAILED: BAD,
}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class OptionsDecoder(json.JSONDecoder):
    """Refuses what Python reads but PostgreSQL cannot store: NaN, infinity, NUL, depth without end."""

    def decode(self, s: str, *args: Any, **kwargs: Any) -> Any:
        try:
            found = super().decode(s, *args, **kwargs)
            json.dumps(found, allow_nan=False)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), s[:80], 0) from error
        if "\\u0000" in json.dumps(found):
            raise json.JSONDecodeError("NUL", s[:80], 0)
        return found


class OptionsField(forms.JSONField):
    """JSON that can be stored."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "decoder": OptionsDecoder})


class ProviderAccountForm(forms.ModelForm):
    """Contract terms and options; secrets have a page of their own."""

    class Meta:
        model = ProviderAccount
        fields = (
            "provider",
            "name",
            "account_id",
            "options",
            "delivery_probe",
            "resale_allowed",
            "stock_confidential",
            "enabled",
            "poll_interval",
        )
        field_classes = {"options": OptionsField}
        help_texts = {
            "options": gettext_lazy(
                'JSON, for example {"regions": ["us-east-1"], "image": "ami-…", "user": "ubuntu"}. No secrets.'
            ),
            "poll_interval": gettext_lazy("Hours:minutes:seconds, at least one minute."),
        }

    def clean_options(self) -> dict[str, Any]:
        options = self.cleaned_data["options"]
        if not isinstance(options, dict):
            raise forms.ValidationError(_("Options are a JSON object in braces."))
        for name in options:
            if any(word in str(name).lower() for word in ("secret", "password", "access_key", "token")):
                raise forms.ValidationError(
                    _("“%(name)s” looks like a secret: enter it on the credentials page.") % {"name": name}
                )
        endpoint = options.get("endpoint_url")
        if endpoint:
            try:
                parts = urlsplit(str(endpoint))
            except ValueError:  # half an IPv6 address
                parts = urlsplit("")
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
                raise forms.ValidationError(_("endpoint_url must begin with https://."))
        currency = options.get("currency", "USD")
        if not (
            isinstance(currency, str) and currency.isascii() and currency.isalpha() and len(currency) == 3
        ):
            raise forms.ValidationError(_("currency must be three letters, for example EUR."))
        regions = options.get("regions", [])
        if not isinstance(regions, list) or not all(isinstance(code, str) for code in regions):
            raise forms.ValidationError(_("regions must be a list of region codes."))
        return options

    def clean_poll_interval(self) -> Any:
        interval = self.cleaned_data["poll_interval"]
        if interval.total_seconds() < 60:
            raise forms.ValidationError(_("Poll at most once a minute."))
        return interval


class SecretLines(forms.Textarea):
    """A secret of several lines: browsers take the line ends out of what is pasted into a password field."""

    def __init__(self) -> None:
        super().__init__({"autocomplete": "off", "spellcheck": "false", "rows": 10, "cols": 80})

    def format_value(self, value: Any) -> None:
        """Return nothing: what was sent is never put back into the page."""


class CredentialsForm(forms.Form):
    """The adapter's own fields; nothing stored is ever put back into them."""

    def __init__(self, account: ProviderAccount, data: Any = None) -> None:
        super().__init__(data)
        for item in adapter(account.provider.kind).credential_fields:
            self.fields[item.name] = forms.CharField(
                label=item.label,
                required=item.required,
                max_length=8000,
                widget=SecretLines()
                if item.lines
                else forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "size": 60}),
            )


@admin.register(ProviderAccount)
class ProviderAccountAdmin(SupplyAdmin):
    form = ProviderAccountForm
    list_display = (
        "name",
        "provider",
        "enabled",
        "credentials_",
        "last_poll",
        "circuit_",
        "next_poll_at",
        "resale_allowed",
    )
    list_filter = ("provider", "enabled")
    list_select_related = ("provider",)
    search_fields = ("name", "account_id", "provider__name")
    readonly_fields = ("credentials_", "last_poll", "circuit_", "next_poll_at", "last_error")
    actions = ("test_connections", "poll_now")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderAccount]:
        last = PollRun.objects.filter(account=OuterRef("pk")).order_by("-started_at", "-pk")
        return (
            super()
            .get_queryset(request)
            .annotate(
                last_state=Subquery(last.values("state")[:1]),
                last_started=Subquery(last.values("started_at")[:1]),
            )
        )

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        assert isinstance(obj, ProviderAccount)
        if "options" in form.changed_data:
            obj.next_poll_at = None  # what went wrong before may be mended
        super().save_model(request, obj, form, change)

    def get_urls(self) -> list[URLPattern]:
        page = path(
            "<int:pk>/credentials/",
            self.admin_site.admin_view(self.credentials_view),
            name="inventory_provideraccount_credentials",
        )
        return [page, *super().get_urls()]

    def credentials_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(account: ProviderAccount, values: dict[str, str]) -> str:
            set_credentials(
                account_id=account.pk, credentials=values, actor=staff(request), now=timezone.now()
            )
            return _("The credentials of %(account)s were stored, encrypted.") % {"account": account}

        def make(account: ProviderAccount, request: HttpRequest) -> forms.Form:
            return CredentialsForm(account, request.POST if request.method == "POST" else None)

        try:
            return form_page(
                self,
                request,
                pk,
                title=_("Enter credentials"),
                submit=_("Store encrypted"),
                make=make,
                act=act,
            )
        except NotSupported as error:
            messages.warning(request, error.message)
            return self.response_post_save_change(request, self.get_object(request, str(pk)))

    @admin.display(description=gettext_lazy("credentials"))
    def credentials_(self, account: ProviderAccount) -> SafeString:
        if account.pk is None:
            return pill(_("save first, then enter them"))
        return format_html(
            '{} <a href="{}">{}</a>',
            pill(_("stored"), GOOD) if account.credentials else pill(_("missing"), WARN),
            reverse("admin:inventory_provideraccount_credentials", args=[account.pk]),
            _("Replace") if account.credentials else _("Enter"),
        )

    @admin.display(description=gettext_lazy("last poll"), ordering="last_started")
    def last_poll(self, account: Any) -> SafeString:
        if not getattr(account, "last_state", None):
            return pill(_("never"), NEUTRAL)
        state = PollRun.State(account.last_state)
        return format_html(
            '{} <a href="{}?account__id__exact={}">{}</a>',
            pill(state.label, POLL_TONES[state]),
            reverse("admin:inventory_pollrun_changelist"),
            account.pk,
            _("%(age)s ago") % {"age": age(timezone.now() - account.last_started)},
        )

    @admin.display(description=gettext_lazy("polling"), ordering="circuit_opened_at")
    def circuit_(self, account: ProviderAccount) -> SafeString:
        now = timezone.now()
        state = circuit.circuit(account, now=now)
        if state == circuit.Circuit.CLOSED:
            if not account.poll_failures:
                return pill(_("as planned"), GOOD)
            failures = account.poll_failures
            text = ngettext("%(n)s poll failed", "%(n)s polls failed in a row", failures)
            return pill(text % {"n": failures}, WARN)
        since = age(now - (account.circuit_opened_at or now))
        if state == circuit.Circuit.HALF_OPEN:
            return format_html(
                "{} {}", pill(_("tried next"), WARN), _("stopped %(age)s ago") % {"age": since}
            )
        again = age((account.next_poll_at or now) - now)
        return format_html(
            "{} {}",
            pill(_("stopped"), BAD),
            _("%(age)s ago after %(n)s failures; tried again in %(again)s")
            % {"age": since, "n": account.poll_failures, "again": again},
        )

    @admin.display(description=gettext_lazy("last error"), empty_value="–")
    def last_error(self, account: ProviderAccount) -> str | None:
        if not account.poll_failures:
            return None
        return circuit.last_error(account)

    @admin.action(description=gettext_lazy("Test the connection"), permissions=["change"])
    def test_connections(self, request: HttpRequest, queryset: QuerySet[ProviderAccount]) -> None:
        for account in queryset.order_by("name")[:10]:
            try:
                found = test_connection(account_id=account.pk)
            except ProviderError as error:
                messages.error(request, f"{account}: {error}")
            else:
                messages.success(
                    request,
                    _("%(account)s: connected as %(who)s.")
                    % {"account": account, "who": found.principal or found.account},
                )

    @admin.action(description=gettext_lazy("Poll now"), permissions=["change"])
    def poll_now(self, request: HttpRequest, queryset: QuerySet[ProviderAccount]) -> None:
        now = timezone.now()
        for pk in queryset.filter(enabled=True).values_list("pk", flat=True):
            request_poll(account_id=pk, now=now)
        messages.success(request, _("The polls were asked for; see Poll runs in a minute."))


@admin.register(PollRun)
class PollRunAdmin(ReadOnlyAdmin):
    list_display = (
        "started_at",
        "account",
        "region",
        "state_",
        "took",
        "offers_seen",
        "offers_written",
        "prices_written",
        "what",
    )
    list_filter = ("state", "account")
    list_select_related = ("account", "region__provider")
    date_hierarchy = "started_at"
    fields = (
        "account",
        "region",
        "state_",
        "started_at",
        "finished_at",
        "offers_seen",
        "offers_written",
        "prices_written",
        "error",
        "spellings",
    )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, run: PollRun) -> SafeString:
        state = PollRun.State(run.state)
        return pill(state.label, POLL_TONES[state])

    @admin.display(description=gettext_lazy("took"), empty_value="–")
    def took(self, run: PollRun) -> str | None:
        if not run.finished_at:
            return None
        return _("%(n)s s") % {"n": f"{(run.finished_at - run.started_at).total_seconds():.1f}"}

    @admin.display(description=gettext_lazy("error"))
    def what(self, run: PollRun) -> str:
        first = run.error.splitlines()[0] if run.error else ""
        if not first and run.unknown_types:
            return _("%(n)s unknown instance types") % {"n": len(run.unknown_types)}
        return first[:120]

    @admin.display(description=gettext_lazy("unknown spellings"), empty_value="–")
    def spellings(self, run: PollRun) -> SafeString | None:
        if not run.unknown_types:
            return None
        items = format_html_join("", "<li>{}</li>", ((text,) for text in run.unknown_types))
        address = reverse("admin:inventory_gpuspelling_changelist")
        advice = _("Say which GPU they have; the next poll adds them.")
        return format_html(
            "<ul>{}</ul><p class='help'><a href='{}?state=unknown'>{}</a></p>", items, address, advice
        )
