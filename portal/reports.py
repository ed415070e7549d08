"""Error reports to Sentry: without the credentials that a worker has open."""

from __future__ import annotations

from typing import Any

from portal.common.secrecy import clean


def sentry_options() -> dict[str, Any]:
    """Return what ``sentry_sdk.init`` is called with beside the DSN.

    Not the frames' variables, where adapters hold credentials, nor what was sent in forms; and
    every text passes :func:`portal.common.secrecy.clean`, breadcrumbs with URLs included.
    """
    return {
        "send_default_pii": False,
        "include_local_variables": False,
        "max_request_body_size": "never",
        "before_send": lambda event, hint: clean(event),
    }
