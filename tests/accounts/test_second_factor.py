"""Second factors: TOTP, recovery codes, passkeys, the QR view, and staff who need one."""

import re
import time

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from django.core import mail
from django.urls import reverse

from portal.accounts.models import Event
from tests.factories import make_user

pytestmark = pytest.mark.django_db
PASSWORD = "gradient-descent-42"
QR = "/account/totp-qr.svg"


@pytest.fixture
def me():
    return person("me@example.com")


def person(email, **fields):
    user = make_user(email=email, password=PASSWORD, **fields)
    EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    return user


def sign_in(client, user, **extra):
    return client.post(reverse("account_login"), {"login": user.email, "password": PASSWORD, **extra})


def signed_in(client):
    return "_auth_user_id" in client.session


def reauthenticate(client):
    return client.post(reverse("account_reauthenticate"), {"password": PASSWORD})


def code(secret, *, periods=0):
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + periods))


def activate(user):
    secret = generate_totp_secret()
    TOTP.activate(user, secret)
    return secret


def test_setting_up_an_authenticator(client, me, django_capture_on_commit_callbacks):
    sign_in(client, me)
    page = client.get(reverse("mfa_activate_totp"))
    assert page.url.startswith(reverse("account_reauthenticate"))  # a stolen session adds no factor
    assert client.get(QR).status_code == 302
    reauthenticate(client)
    assert client.get(QR).status_code == 404  # nothing is being set up yet

    page = client.get(reverse("mfa_activate_totp"))
    assert page.status_code == 200
    secret = client.session["mfa.totp.secret"]
    image = client.get(QR)
    assert image["Content-Type"] == "image/svg+xml"
    assert "no-store" in image["Cache-Control"]
    assert image.content.startswith(b"<?xml")
    assert b"<svg" in image.content
    assert secret.encode() not in image.content

    with django_capture_on_commit_callbacks(execute=True):
        client.post(reverse("mfa_activate_totp"), {"code": code(secret)})
    authenticator = Authenticator.objects.get(user=me, type=Authenticator.Type.TOTP)
    assert secret not in str(authenticator.data)  # encrypted at rest
    assert Authenticator.objects.filter(user=me, type=Authenticator.Type.RECOVERY_CODES).exists()
    assert client.get(QR).status_code == 404  # and the secret is shown no more
    event = Event.objects.get(kind="user.factor_added", after__type="totp")
    assert secret not in str(event.after)
    assert [message.to for message in mail.outbox] == [[me.email]]


def test_the_qr_code_is_for_people_who_are_signed_in(client):
    assert client.get(QR).status_code == 302


def test_a_password_alone_is_not_enough_with_an_authenticator(client, me):
    secret = activate(me)
    assert sign_in(client, me).url == reverse("mfa_authenticate")
    assert not signed_in(client)
    client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert not signed_in(client)
    client.post(reverse("mfa_authenticate"), {"code": code(secret)})
    assert signed_in(client)


def test_a_phone_half_a_minute_off_still_works(client, me):
    secret = activate(me)
    sign_in(client, me)
    client.post(reverse("mfa_authenticate"), {"code": code(secret, periods=-1)})
    assert signed_in(client)


def test_recovery_codes_work_once(client, me):
    activate(me)
    first = RecoveryCodes.activate(me).get_unused_codes()[0]
    sign_in(client, me)
    client.post(reverse("mfa_authenticate"), {"code": first})
    assert signed_in(client)
    client.post(reverse("account_logout"))
    sign_in(client, me)
    client.post(reverse("mfa_authenticate"), {"code": first})
    assert not signed_in(client)


def test_the_sign_in_page_offers_passkeys(client):
    options = client.get(reverse("mfa_login_webauthn"), headers={"accept": "application/json"}).json()
    asked = options["request_options"]["publicKey"]
    assert asked["rpId"] == "testserver"
    assert asked["userVerification"] == "required"
    assert re.fullmatch(r"[\w-]{20,}", asked["challenge"])


class TestStaff:
    @pytest.fixture(autouse=True)
    def _production(self, settings):
        settings.SUBLET_STAFF_NEED_MFA = True

    @pytest.fixture
    def staff(self):
        return person("staff@example.com", is_staff=True, is_superuser=True)

    def test_without_a_second_factor_they_are_led_to_set_one_up(self, client, staff):
        sign_in(client, staff)
        for path in ("/admin/", "/admin/accounts/organization/", "/admin/no-such-page/"):
            assert client.get(path).url == reverse("mfa_index")
        assert client.post("/admin/accounts/user/add/", {}).url == reverse("mfa_index")

    def test_with_one_that_this_session_used_they_are_in(self, client, staff):
        secret = activate(staff)
        sign_in(client, staff)
        client.post(reverse("mfa_authenticate"), {"code": code(secret)})
        assert client.get("/admin/").status_code == 200

    def test_a_session_that_has_not_used_it_must(self, client, staff):
        sign_in(client, staff)
        secret = activate(staff)  # elsewhere, after this session began
        response = client.get("/admin/accounts/organization/?q=x")
        assert response.url.startswith(reverse("mfa_reauthenticate"))
        response = client.post(response.url, {"code": code(secret)})
        assert response.url == "/admin/accounts/organization/?q=x"
        assert client.get("/admin/").status_code == 200

    def test_another_persons_proof_does_not_count(self, client, staff):
        activate(staff)
        client.force_login(staff)
        session = client.session
        session["account_authentication_methods"] = [{"method": "mfa", "at": time.time(), "id": 1}]
        session["account_authentication_methods_user"] = "another"
        session.save()
        assert client.get("/admin/").url.startswith(reverse("mfa_reauthenticate"))

    def test_recovery_codes_alone_are_no_second_factor(self, client, staff):
        RecoveryCodes.activate(staff)
        client.force_login(staff)
        assert client.get("/admin/").url == reverse("mfa_index")

    def test_customers_are_refused_and_strangers_sign_in_first(self, client, me):
        response = client.get("/admin/", follow=True)
        assert response.redirect_chain[-1][0].startswith(reverse("account_login"))
        sign_in(client, me)
        assert client.get("/admin/", follow=True).status_code == 403

    def test_local_mode_asks_for_none(self, client, staff, settings):
        settings.SUBLET_STAFF_NEED_MFA = False
        client.force_login(staff)
        assert client.get("/admin/").status_code == 200
