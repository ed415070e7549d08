"""Sign-in and everything about it, in the portal's design."""

from __future__ import annotations

import pytest
from allauth.account.models import EmailAddress
from playwright.sync_api import expect

from portal.accounts.models import User
from tests.browser.accessibility import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PASSWORD = "correct-horse-battery"


@pytest.fixture
def person():
    user = User.objects.create_user("ada@example.com", PASSWORD, full_name="Ada Osei")
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


def sign_in(live_server, page, path: str) -> None:
    page.goto(f"{live_server.url}/accounts/login/?next={path}")
    page.get_by_label("Email").fill("ada@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{live_server.url}{path}")


@pytest.mark.parametrize("path", ["signup/", "password/reset/", "confirm-email/"])
def test_pages_before_sign_in(live_server, page, problems, path):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{live_server.url}/accounts/{path}")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert violations(page) == []
    assert problems == []


def test_a_wrong_password_is_explained_beside_the_form(live_server, page, problems, person):
    page.goto(f"{live_server.url}/accounts/login/")
    page.get_by_label("Email").fill("ada@example.com")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not correct")
    assert violations(page) == []
    assert problems == []


def test_pages_after_sign_in(live_server, page, problems, person):
    sign_in(live_server, page, "/accounts/2fa/")
    for path in ("2fa/", "email/", "password/change/", "2fa/webauthn/", "2fa/webauthn/add/", "logout/"):
        page.goto(f"{live_server.url}/accounts/{path}")
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        assert violations(page) == [], path
    assert problems == []


def test_an_authenticator_app_is_set_up_with_a_picture_the_policy_allows(live_server, page, problems, person):
    from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time

    sign_in(live_server, page, "/accounts/2fa/")
    page.get_by_role("link", name="Set up").click()
    # Who sits at an open laptop must not add a second factor: the password is asked for again.
    expect(page.get_by_role("heading", level=1)).to_have_text("Confirm Access")
    assert violations(page) == []
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    picture = page.get_by_role("img", name="QR code for the authenticator app")
    assert picture.locator("path").bounding_box()["width"] > 100
    assert violations(page) == []
    secret = page.locator(".sb-copy code").text_content().strip()
    counter = next(iter(yield_hotp_counters_from_time()))
    page.get_by_label("Authenticator code").fill(format_hotp_value(hotp_value(secret, counter)))
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recovery codes")
    expect(page.locator("#recovery_codes li")).to_have_count(10)
    assert violations(page) == []
    assert problems == []
