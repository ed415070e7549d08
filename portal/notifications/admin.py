"""Deliveries: what was sent to whom, what failed and why; and sending again."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from portal.accounts.admin.base import LookOnly, each, staff
from portal.common.states import GOOD, INFO, NEUTRAL, status_pill
from portal.notifications import sending
from portal.notifications.models import Delivery

TONES = {Delivery.State.PENDING: INFO, Delivery.State.SENT: GOOD, Delivery.State.DROPPED: NEUTRAL}


@admin.register(Delivery)
class DeliveryAdmin(LookOnly):
    fields = ("event", "channel", "recipient", "state", "attempts", "next_try_at", "sent_at", "last_error")
    list_display = ("recipient", "kind", "state_pill", "attempts", "sent_at", "next_try_at", "last_error")
    list_filter = ("state", "channel")
    list_select_related = ("event",)
    search_fields = ("recipient", "=event__kind", "=event__subject_id")
    actions = ("send_again",)

    @admin.display(description=gettext_lazy("event"), ordering="event__kind")
    def kind(self, delivery: Delivery) -> str:
        return delivery.event.kind

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_pill(self, delivery: Delivery) -> SafeString:
        tone = TONES.get(Delivery.State(delivery.state), "")
        return status_pill(delivery.state, delivery.get_state_display(), tone)

    @admin.action(description=gettext_lazy("Send again"), permissions=["act"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        def act(delivery: Delivery) -> None:
            sending.send_again(delivery=delivery, actor=staff(request), now=timezone.now())

        each(self, request, queryset.select_related("event"), act)
