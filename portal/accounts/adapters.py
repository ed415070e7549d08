"""What django-allauth asks us: how people are stored, mailed, and their second factors kept."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest

from portal.accounts.models import User
from portal.common import crypto


class AccountAdapter(DefaultAccountAdapter):
    """People sign in by e-mail address; mails leave after the transaction, if there is one."""

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        """Keep the name that our sign-up form asks for."""
        user.full_name = form.cleaned_data.get("full_name", "")
        saved: User = super().save_user(request, user, form, commit)
        return saved

    def send_mail(self, template_prefix: str, email: str, context_data: dict[str, Any]) -> None:
        """Send one of allauth's own mails: links to confirm an address or reset a password.

        They hold secrets that live for hours, so they are sent at once and stored
        nowhere. A mail server that is down is logged and does not break the page,
        which offers to send again.
        """
        # Named as people know it; the default is whatever host the request claims.
        site = {"name": settings.MFA_TOTP_ISSUER, "domain": urlsplit(settings.SUBLET_PUBLIC_URL).netloc}
        facts = {"request": context.request, "email": email, "current_site": site}
        message = self.render_mail(template_prefix, email, facts | context_data)
        transaction.on_commit(message.send, robust=True)


class MFAAdapter(DefaultMFAAdapter):
    """TOTP secrets and recovery seeds are encrypted at rest, like every other secret of ours."""

    def encrypt(self, text: str) -> str:
        return crypto.encrypt(text).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return str(crypto.decrypt(encrypted_text.encode()))

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """Name the site as people know it; its id stays the host that the browser checks."""
        entity: dict[str, str] = super().get_public_key_credential_rp_entity()
        return entity | {"name": self.get_totp_issuer()}
