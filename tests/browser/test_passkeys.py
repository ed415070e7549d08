"""Passkeys in a real browser, with an authenticator that Chromium plays (WebAuthn over its debugging protocol)."""

from __future__ import annotations

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from playwright.sync_api import expect

from portal.accounts.models import User
from tests.browser.accessibility import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PASSWORD = "correct-horse-battery"


@pytest.fixture
def staff(settings):
    settings.SUBLET_STAFF_NEED_MFA = True
    user = User.objects.create_superuser("staff@example.com", PASSWORD, full_name="Ada Osei")
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


@pytest.fixture
def _authenticator(page):
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


@pytest.mark.usefixtures("_authenticator")
def test_staff_add_a_passkey_and_from_then_on_need_nothing_else(live_server, page, problems, staff):
    page.goto(f"{live_server.url}/admin/")
    page.get_by_label("Email").fill(staff.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    # A password alone does not open the admin: this is where a second factor is added.
    page.wait_for_url(f"{live_server.url}/accounts/2fa/")
    expect(page.get_by_text("Staff sign in with a second factor")).to_be_visible()

    page.goto(f"{live_server.url}/accounts/2fa/webauthn/add/")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Passwordless").check()
    page.get_by_role("button", name="Create").or_(page.get_by_role("button", name="Add")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recovery codes")
    assert set(Authenticator.objects.values_list("type", flat=True)) == {"webauthn", "recovery_codes"}

    page.context.clear_cookies()
    page.goto(f"{live_server.url}/accounts/login/?next=/admin/")
    page.get_by_role("button", name="passkey").click()
    page.wait_for_url(f"{live_server.url}/admin/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert problems == []


def test_an_invitation_is_read_and_accepted_in_the_browser(live_server, page, problems):
    from django.utils import timezone

    from portal.accounts.organizations import invite
    from tests.factories import make_organization, make_user

    owner = make_user(full_name="Grace Hopper")
    organization = make_organization(name="Compilers", owner=owner)
    me = User.objects.create_user("ada@example.com", PASSWORD)
    EmailAddress.objects.create(user=me, email=me.email, verified=True, primary=True)
    _, token = invite(
        actor=owner, organization=organization, email=me.email, role="member", now=timezone.now()
    )
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{live_server.url}/join/{token}/")
    assert token not in page.url
    expect(page.get_by_role("heading", level=1)).to_have_text("Join Compilers")
    assert violations(page) == []
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Email").fill(me.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{live_server.url}/join/")
    assert violations(page) == []
    assert problems == []
    page.get_by_role("button", name="Accept the invitation").click()
    page.wait_for_url(lambda url: not url.endswith("/join/"))
    assert me.memberships.get().organization == organization
