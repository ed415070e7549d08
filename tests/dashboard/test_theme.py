"""The theme is a cookie that the server renders."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.django_db


def scheme(client) -> str:
    html = client.get("/accounts/login/").content.decode()
    return html.split('name="color-scheme" content="')[1].split('"')[0]


def test_without_a_choice_the_system_decides(client):
    assert scheme(client) == "light dark"


@pytest.mark.parametrize(
    ("theme", "expected"), [("light", "light"), ("dark", "dark"), ("system", "light dark")]
)
def test_the_choice_is_remembered(client, theme, expected):
    response = client.post("/theme/", {"theme": theme, "next": "/accounts/login/"})
    assert response.status_code == 302
    assert response["Location"] == "/accounts/login/"
    assert scheme(client) == expected
    cookie = response.cookies["sublet_theme"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_a_script_that_changed_the_page_gets_no_redirect(client):
    response = client.post("/theme/", {"theme": "dark"}, headers={"accept": "application/json"})
    assert response.status_code == 204
    assert scheme(client) == "dark"


@pytest.mark.parametrize("theme", ["", "purple", 'dark" onload="x'])
def test_an_unknown_theme_is_refused_and_changes_nothing(client, theme):
    client.post("/theme/", {"theme": "dark"})
    response = client.post("/theme/", {"theme": theme})
    assert response.status_code == 400
    assert "sublet_theme" not in response.cookies
    assert scheme(client) == "dark"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", ""])
def test_it_never_redirects_elsewhere(client, target):
    assert client.post("/theme/", {"theme": "dark", "next": target})["Location"] == "/"


def test_a_forged_cookie_is_as_good_as_none(client):
    client.cookies["sublet_theme"] = 'dark"><script>'
    assert scheme(client) == "light dark"


def test_reading_changes_nothing(client):
    assert client.get("/theme/").status_code == 405
