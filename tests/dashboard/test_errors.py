"""Error pages stand on their own feet."""

from __future__ import annotations

import pytest
from django.template.loader import render_to_string


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "429", "500"])
def test_an_error_page_needs_no_request(name):
    html = render_to_string(f"{name}.html")
    assert "<h1>" in html
    assert "Sublet" in html
    assert " style=" not in html


@pytest.mark.django_db
def test_an_unknown_address_says_where_to_go(client):
    response = client.get("/no/such/page/")
    assert response.status_code == 404
    assert "There is nothing here" in response.content.decode()
