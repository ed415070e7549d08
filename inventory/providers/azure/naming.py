"""Our mark on Azure's resources: tags, and names for what Azure makes along with a machine.

Azure takes ``sublet:lease`` as it is: a tag's name may have anything but ``<>%&\\?/``, and
its case is not kept for sure
(https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/tag-resources).
Names carry the same marks, since the disk of a machine does not get its tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inventory.providers import naming
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    LaunchGroup,
    LeaseNetworkRequest,
)

OURS = (TAG_SITE, TAG_LEASE, TAG_ALLOCATION, TAG_TOKEN)
LONGEST_MACHINE = 64  # of a Linux machine
LONGEST_VALUE = 256
# What Azure may put behind the name of an interface or address that it makes with a machine.
_SUFFIX = re.compile(r"-[0-9a-f]{8}$")


def machine_tags(group: LaunchGroup) -> dict[str, str]:
    return to_tags({**group.tags, TAG_TOKEN: group.client_token})


def network_tags(request: LeaseNetworkRequest) -> dict[str, str]:
    return to_tags({**request.tags, TAG_LEASE: request.lease})


def to_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:LONGEST_VALUE] for name, value in tags.items() if name in OURS and value}


def machine_name(tags: Mapping[str, str]) -> str:
    """Return the machine's name, which is its id: one launch, one name."""
    return naming.name_for(tags, limit=LONGEST_MACHINE)


def network_name(tags: Mapping[str, str]) -> str:
    """Return the name of everything in a lease's network."""
    return naming.name_for({tag: tags[tag] for tag in (TAG_SITE, TAG_LEASE) if tag in tags})


def id_of(document: Mapping[str, Any]) -> str:
    """Return a resource's name, which is its id; ours in lower case, however Azure writes it back."""
    name = str(document.get("name") or "")
    return name.lower() if _marks(name) else name


def tags_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of ours that a resource has, and those that only its name carries."""
    found = _marks(str(document.get("name") or ""))
    tags = document.get("tags")
    theirs = (
        {str(key).lower(): str(value) for key, value in tags.items()} if isinstance(tags, Mapping) else {}
    )
    return found | {tag: theirs[tag] for tag in OURS if theirs.get(tag)}


def _marks(name: str) -> dict[str, str]:
    return naming.tags_of(name.lower()) or naming.tags_of(_SUFFIX.sub("", name.lower()))
