"""Rate limits of one test must not meet the next."""

import pytest
from django.core.cache import cache


@pytest.fixture(autouse=True)
def _no_limits_left_over():
    cache.clear()
