"""Compose a delivery's mail: facts of now, the recipient's clock, a template of plain text."""

from __future__ import annotations

import re
from email.utils import parseaddr

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.utils import timezone

from portal.accounts.models import User
from portal.accounts.users import zone_of
from portal.notifications.facts import page
from portal.notifications.models import Delivery
from portal.notifications.rules import RULES


def compose(delivery: Delivery) -> EmailMessage | None:
    """Return the mail, or ``None`` when there is nothing to tell any more.

    The template's first line is the subject. Times are written in the recipient's
    zone, UTC for an address without an account.
    """
    event = delivery.event
    rule = RULES.get(event.kind)
    facts = rule.facts(event) if rule else None
    if rule is None or facts is None:
        return None
    person = User.objects.filter(email=delivery.recipient).first()
    context = facts | {"person": person, "recipient": delivery.recipient, "home": page("dashboard:home")}
    with timezone.override(zone_of(person)):
        text = render_to_string(f"notifications/{rule.template}.txt", context)
    # Non-breaking spaces are for pages; some mail programs show them as marks.
    subject, _, body = text.replace("\u00a0", " ").strip().partition("\n")
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    return EmailMessage(
        subject=" ".join(subject.split())[:200],
        body=re.sub(r"\n{3,}", "\n\n", body.strip()) + "\n",
        to=[delivery.recipient],
        headers={
            # The same for every attempt: a mail sent twice is shown once.
            "Message-ID": f"<delivery-{delivery.pk}-{delivery.edition}@{domain}>",
            "Auto-Submitted": "auto-generated",  # RFC 3834: no vacation replies, please
        },
    )
