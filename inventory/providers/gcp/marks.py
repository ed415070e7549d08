"""Our marks on Google's resources: labels where it has them, names everywhere.

Firewall rules and future reservations have no labels; a name carries site and token, or
site and lease (:mod:`inventory.providers.naming`). An id is ``ZONE/NAME`` of what lies in
a zone, since Google finds nothing by its name alone.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, TAG_SITE, TAG_TOKEN
from inventory.providers.errors import ProviderError
from inventory.providers.gcp.session import NAME, REGION, ZONE

LONGEST = 63  # https://cloud.google.com/compute/docs/naming-resources
# Everything that any site of ours made, for a listing: which site is told by the label's value.
ANY_OF_OURS = "labels.sublet-site:*"
# What a request id is made from; the same token gives the same id, so that a call is done once.
_REQUESTS = uuid.UUID("5a0c8b6e-9d0f-4f6b-8a8b-6f2a3c1d7e90")
_NAMED = re.compile(rf"(?P<place>{ZONE.pattern}|{REGION.pattern})/(?P<name>{NAME.pattern})")


def request_id(token: str, purpose: str) -> str:
    """Return the UUID that makes Google do a call once: https://cloud.google.com/compute/docs/api/how-tos/idempotency."""
    return str(uuid.uuid5(_REQUESTS, f"{purpose}:{token}"))


def machine_name(tags: Mapping[str, str]) -> str:
    """Return the machine's name: one launch, one name."""
    return naming.name_for(tags, limit=LONGEST)


def lease_name(tags: Mapping[str, str], region: str) -> str:
    """Return the name of a lease's firewall in a region, which is also the network tag of its machines.

    A lease may have machines in several regions, and firewall rules belong to none: its
    number makes the names differ.
    """
    number = int.from_bytes(hashlib.sha256(region.encode()).digest()) % 10_000
    ours = {tag: tags[tag] for tag in (TAG_SITE, TAG_LEASE) if tags.get(tag)}
    return naming.name_for(ours, limit=LONGEST - len("-0"), index=number)


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of ours that a resource carries, in its labels or only in its name."""
    labels = item.get("labels")
    found = naming.tags_of(str(item.get("name") or ""))
    if isinstance(labels, Mapping):
        found |= naming.from_labels({str(key): str(value) for key, value in labels.items()})
    return found


def label_filter(tag: str, value: str) -> str:
    """Return the filter of a listing for one of our tags (AIP-160, as the discovery document describes it)."""
    key, label = naming.label_selector(tag, value)
    return f'labels.{key}="{label}"'


def id_of(place: str, name: str) -> str:
    return f"{place}/{name}"


def split(identifier: str) -> tuple[str, str]:
    """Return zone (or region) and name of an id; raises :class:`ProviderError` for what is none of ours."""
    match = _NAMED.fullmatch(identifier)
    if match is None:
        raise ProviderError(
            _("“%(id)s” is no id at Google Cloud: ZONE/NAME was expected.") % {"id": identifier[:100]}
        )
    return match["place"], match["name"]


def with_token(tags: Mapping[str, str], token: str) -> dict[str, str]:
    return {**tags, TAG_TOKEN: token}
