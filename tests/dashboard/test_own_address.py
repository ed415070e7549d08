"""The address that a quote lets in is the customer's, also behind our proxy."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from portal.dashboard.views.reserve import _own_address


@pytest.mark.parametrize(
    ("proxies", "facts", "expected"),
    [
        (0, {"REMOTE_ADDR": "203.0.113.7"}, ["203.0.113.7"]),
        (0, {"REMOTE_ADDR": "203.0.113.7", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}, ["203.0.113.7"]),
        (1, {"REMOTE_ADDR": "10.0.0.2", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, ["203.0.113.7"]),
        (1, {"REMOTE_ADDR": "10.0.0.2", "HTTP_X_FORWARDED_FOR": "192.0.2.9, 203.0.113.7"}, ["203.0.113.7"]),
        (1, {"REMOTE_ADDR": "10.0.0.2", "HTTP_X_FORWARDED_FOR": "unknown"}, []),
        (0, {"REMOTE_ADDR": ""}, []),
    ],
)
def test_the_customers_own_address(settings, proxies, facts, expected):
    settings.ALLAUTH_TRUSTED_PROXY_COUNT = proxies
    assert _own_address(RequestFactory().post("/", **facts)) == expected
