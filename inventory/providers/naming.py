"""Our mark on resources that a vendor lets us name but not tag.

Sublet recognises its own by tags (:data:`~inventory.providers.base.TAG_SITE` and the
others). Where a vendor has none for some kind of resource, the name carries them:

==================================================== ====== ==========================
``sublet-<site>-t<token>``                               32 a machine, a cluster, a disk
``sublet-<site>-l<lease>``                               32 a lease's firewall or key
``sublet-<site>-l<lease>-t<token>``                      50 a machine, where it fits
``sublet-<site>-…-<index>``                              +6 the n-th of one launch
==================================================== ====== ==========================

``<site>`` is a digest of the site's id, since staff choose that freely; ``<token>`` and
``<lease>`` are the 16 random characters of our own ids, so that they come back in full.
Names are lower-case letters, digits and hyphens, begin with a letter and end with a
letter or digit: that is what DNS labels, Kubernetes and Google Cloud take, and every
other vendor too. What was made is read back by :func:`tags_of`; a value that came back
as a digest equals its original by :func:`same`, which is how values must be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from inventory.providers.base import TAG_ALLOCATION, TAG_LEASE, TAG_SITE, TAG_TOKEN
from portal.common.ids import ALPHABET

PREFIX = "sublet"
# A value that is a digest of the real one begins with this.
DIGEST = "digest-"
SITE_LENGTH = 7  # 35 bits: sites that share one account at a vendor are few
ID_LENGTH = 16  # portal.common.ids.LENGTH; 80 bits as a digest too
LARGEST_INDEX = 99_999

_KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"t": (TAG_TOKEN, "lau_"), "l": (TAG_LEASE, "lse_"), "u": (TAG_TOKEN, DIGEST), "m": (TAG_LEASE, DIGEST)}
)
_ID = re.compile(f"[{ALPHABET}]{{{ID_LENGTH}}}")
_NAME = re.compile(
    f"{PREFIX}-([{ALPHABET}]{{{SITE_LENGTH}}})((?:-[tlum][{ALPHABET}]{{{ID_LENGTH}}})+)(-[0-9]{{1,5}})?"
)
# What Kubernetes and Google Cloud both take as the value of a label.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")


def digest(value: str, length: int = ID_LENGTH) -> str:
    """Return the first ``length`` base32 characters of the value's SHA-256."""
    number = int.from_bytes(hashlib.sha256(value.encode()).digest(), "big")
    characters = []
    for _position in range(length):
        number, rest = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[rest])
    return "".join(characters)


def same(found: str, value: str) -> bool:
    """Tell whether a tag's value as it came back from the vendor stands for ``value``.

    It does when it is the value, or its digest. An empty ``found`` is nothing.
    """
    if not found:
        return False
    short = found.removeprefix(DIGEST)
    return found == value or (
        found.startswith(DIGEST) and len(short) >= SITE_LENGTH and digest(value, len(short)) == short
    )


def matches(tags: Mapping[str, str], tag: str, value: str) -> bool:
    """Tell whether a resource carries this tag with this value; for ``Provider.find``."""
    return same(tags.get(tag, ""), value)


def name_for(tags: Mapping[str, str], *, limit: int = 60, index: int | None = None) -> str:
    """Return the name that carries our tags, at most ``limit`` characters long.

    It has the site and the token, and the lease where that fits; without a token (what
    belongs to a lease as a whole) the site and the lease. ``index`` makes the machines of
    one launch differ where a vendor wants every name once. The same tags give the same
    name, so that a second call finds or is refused instead of making a second thing.
    Raises :class:`ValueError` without a site, without both token and lease, and for a
    limit below 32 characters (38 with an index).
    """
    if not tags.get(TAG_SITE):
        raise ValueError("A name of ours needs the site's tag.")
    start = f"{PREFIX}-{digest(tags[TAG_SITE], SITE_LENGTH)}"
    token, lease = _part(tags, TAG_TOKEN, "t", "u"), _part(tags, TAG_LEASE, "l", "m")
    if not token and not lease:
        raise ValueError("A name of ours needs a token or a lease.")
    if index is not None and not 0 <= index <= LARGEST_INDEX:
        raise ValueError(f"The index of a machine is a number up to {LARGEST_INDEX}.")
    end = "" if index is None else f"-{index}"
    for name in (f"{start}{lease}{token}{end}", f"{start}{token or lease}{end}"):
        if len(name) <= limit:
            return name
    raise ValueError(f"A name of ours needs more than {limit} characters.")


def _part(tags: Mapping[str, str], tag: str, full: str, digested: str) -> str:
    value = tags.get(tag, "")
    if not value:
        return ""
    prefix = _KINDS[full][1]
    if value.startswith(prefix) and _ID.fullmatch(value.removeprefix(prefix)):
        return f"-{full}{value.removeprefix(prefix)}"
    return f"-{digested}{digest(value)}"


def tags_of(name: str) -> dict[str, str]:
    """Return the tags that a name carries; nothing for a name that :func:`name_for` did not make.

    The site always comes back as a digest. A vendor that adds something of its own to the
    names of disks or addresses is stripped of that by its adapter.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return {}
    tags = {TAG_SITE: DIGEST + match[1]}
    for part in match[2].split("-")[1:]:
        tag, prefix = _KINDS[part[0]]
        tags[tag] = prefix + part[1:]
    return tags


_LABEL_KEYS: Mapping[str, str] = MappingProxyType(
    {tag: tag.replace(":", "-") for tag in (TAG_SITE, TAG_LEASE, TAG_ALLOCATION, TAG_TOKEN)}
)


def to_labels(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as labels for vendors whose keys have no colon and whose values are short.

    ``sublet:token`` becomes ``sublet-token``; a value that no label may have (a site's id
    with capitals) becomes its digest. Tags that are not ours are left out.
    """
    labels = {}
    for tag, key in _LABEL_KEYS.items():
        if value := tags.get(tag):
            labels[key] = value if _LABEL.fullmatch(value) else DIGEST + digest(value)
    return labels


def from_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of ours that labels carry; what :func:`to_labels` digested stays a digest."""
    return {tag: labels[key] for tag, key in _LABEL_KEYS.items() if labels.get(key)}


def label_selector(tag: str, value: str) -> tuple[str, str]:
    """Return key and value of the label that carries this tag, to filter a listing at the vendor."""
    [(key, label)] = to_labels({tag: value}).items()
    return key, label
