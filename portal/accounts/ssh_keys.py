"""SSH public keys: read strictly, and refused with the reason.

Formats: one ``authorized_keys`` line without options, as ``ssh-keygen`` writes a
``.pub`` file; the blob inside is RFC 4253 section 6.6 (RSA), RFC 5656 section 3.1
(ECDSA), RFC 8709 section 4 (Ed25519) and OpenSSH's PROTOCOL.u2f (security keys).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from django.db import IntegrityError
from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.models import Organization, SSHKey, User
from portal.accounts.texts import clean_line
from portal.common.errors import Conflict, InvalidInput
from portal.common.transactions import durable

LONGEST_INPUT = 16 * 1024  # an RSA key of 16,384 bits is under 3 KB
RSA_LEAST_BITS = 3072  # NIST SP 800-57 part 1: 128 bits of security, good beyond 2030
RSA_MOST_BITS = 16384  # OpenSSH reads no longer ones
MOST_KEYS = 200

CURVES: dict[str, tuple[int, ec.EllipticCurve]] = {
    "nistp256": (256, ec.SECP256R1()),
    "nistp384": (384, ec.SECP384R1()),
    "nistp521": (521, ec.SECP521R1()),
}
ACCEPTED = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
KNOWN_PREFIXES = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "pgp-sign-")


@dataclass(frozen=True)
class ParsedKey:
    """What a public key line says. ``public_key`` is "type base64", without the comment."""

    key_type: str
    bits: int
    fingerprint: str  # as OpenSSH writes it: SHA256:…
    public_key: str
    comment: str = ""


class DuplicateKey(Conflict):
    """The organization has this key already."""

    code = "ssh-key-exists"


class TooManyKeys(Conflict):
    """The organization has as many keys as we keep."""

    code = "too-many-ssh-keys"


def parse(text: str) -> ParsedKey:
    """Read one public key line; raises :class:`InvalidInput` (field ``public_key``) with the reason."""
    line = _one_line(text)
    words = line.split()
    key_type = _key_type(words)
    if len(words) < 2:
        raise _refuse(
            _("The key itself is missing after %(type)s: paste the whole line.") % {"type": key_type}
        )
    blob = _blob(words[1])
    reader = _Reader(blob)
    inner = reader.text()
    if inner != key_type:
        raise _refuse(
            _("The line says %(outer)s but the key inside is %(inner)s. Paste the line exactly as it is.")
            % {"outer": key_type, "inner": inner[:40]}
        )
    bits = _bits(key_type, reader)
    reader.end()
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return ParsedKey(
        key_type=key_type,
        bits=bits,
        fingerprint=f"SHA256:{digest}",
        public_key=f"{key_type} {words[1]}",
        comment=" ".join(words[2:])[:80],
    )


def add_ssh_key(
    *, actor: User, organization: Organization, name: str, public_key: str, now: datetime
) -> SSHKey:
    """Add a public key that leases may carry; needs ``lease``.

    An empty ``name`` takes the key's comment. Raises :class:`InvalidInput` naming
    the field, :class:`DuplicateKey` and :class:`TooManyKeys`.
    """
    access.require(user=actor, organization=organization, permission="lease")
    parsed = parse(public_key)
    name = clean_line(name or parsed.comment or parsed.fingerprint, field="name", longest=80)
    if SSHKey.objects.filter(organization=organization).count() >= MOST_KEYS:
        raise TooManyKeys(
            _("An organization keeps at most %(most)d SSH keys. Remove some that are no longer used.")
            % {"most": MOST_KEYS}
        )
    try:
        with durable():
            key = SSHKey.objects.create(
                organization=organization,
                added_by=actor,
                name=name,
                public_key=parsed.public_key,
                key_type=parsed.key_type,
                bits=parsed.bits,
                fingerprint=parsed.fingerprint,
                created_at=now,
            )
            _record("ssh_key.added", key, actor, now)
    except IntegrityError as error:
        if "ssh_key_once_per_organization" not in str(error):
            raise
        there = SSHKey.objects.filter(organization=organization, fingerprint=parsed.fingerprint).first()
        raise DuplicateKey(
            _("This key is here already, as %(name)s.") % {"name": there.name if there else name}
        ) from None
    return key


def remove_ssh_key(*, actor: User, ssh_key: SSHKey, now: datetime) -> None:
    """Remove a key from the organization; machines that carry it keep it until their lease ends.

    Needs ``lease`` for a key that the actor added, ``manage`` for another's.
    Removing it twice is removing it once.
    """
    own = ssh_key.added_by_id == actor.pk
    access.require(user=actor, organization=ssh_key.organization, permission="lease" if own else "manage")
    with durable():
        locked = (
            SSHKey.objects.select_for_update(of=("self",))
            .select_related("organization")
            .filter(pk=ssh_key.pk)
            .first()
        )
        if locked is None:
            return
        _record("ssh_key.removed", locked, actor, now)
        locked.delete()


def _one_line(text: str) -> str:
    if len(text) > LONGEST_INPUT:
        raise _refuse(_("This is far too long for a public key. Paste one line from a .pub file."))
    text = text.strip()
    if not text:
        raise _refuse(_("Paste a public key: one line, for example from ~/.ssh/id_ed25519.pub."))
    if "PRIVATE KEY" in text or text.startswith("PuTTY-User-Key-File"):
        raise _refuse(
            _(
                "This is a private key. We did not keep it, but treat it as exposed: make a new pair, and paste "
                "the public half (the .pub file)."
            )
        )
    if text.startswith(("---- BEGIN SSH2 PUBLIC KEY", "-----BEGIN")):
        raise _refuse(
            _(
                "This is a public key in another format. Convert it to an OpenSSH line with: ssh-keygen -i -f "
                "FILE (add -m PKCS8 for a PEM file)."
            )
        )
    if len(text.splitlines()) > 1:
        raise _refuse(_("Paste one key at a time, as one line without breaks."))
    if any(ord(char) < 32 and char != "\t" for char in text):
        raise _refuse(_("There are control characters in this line. Paste it as plain text."))
    return text


def _key_type(words: list[str]) -> str:
    first = words[0]
    if first in ACCEPTED:
        return first
    if "-cert-v0" in first:
        raise _refuse(_("This is a certificate. Paste the public key it was made for."))
    if first in ("ssh-dss", "ssh-dsa"):
        raise _refuse(
            _("DSA keys are too weak, and servers refuse them. Make a new key with: ssh-keygen -t ed25519")
        )
    if first.isdigit():
        raise _refuse(_("This is a key of SSH version 1. Make a new one with: ssh-keygen -t ed25519"))
    if first.startswith("AAAA"):
        raise _refuse(_("The key type is missing in front. Paste the whole line, beginning with ssh-…"))
    if any(word in ACCEPTED or word.startswith(("ssh-", "ecdsa-sha2-", "sk-")) for word in words[1:]):
        raise _refuse(
            _(
                "Options in front of the key (such as command= or from=) are not used here. Paste the key alone."
            )
        )
    if first.startswith(KNOWN_PREFIXES):
        raise _refuse(
            _("Keys of type %(type)s are not accepted. Use one of: %(accepted)s.")
            % {"type": first[:60], "accepted": ", ".join(ACCEPTED)}
        )
    raise _refuse(
        _("This does not look like an SSH public key. It begins with one of: %(accepted)s.")
        % {"accepted": ", ".join(ACCEPTED)}
    )


def _blob(text: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _refuse(_("The key is damaged: its middle part is not valid base64. Copy it again.")) from None
    if base64.b64encode(blob).decode() != text:
        # Another spelling of the same bytes would get past the check for duplicates by text.
        raise _refuse(_("The key is damaged: its middle part is not valid base64. Copy it again."))
    return blob


def _bits(key_type: str, reader: _Reader) -> int:
    """Check the numbers inside and return the key's length as ``ssh-keygen -l`` shows it."""
    if key_type == "ssh-rsa":
        return _rsa_bits(reader)
    if key_type == "ssh-ed25519":
        return _ed25519_bits(reader)
    if key_type == "sk-ssh-ed25519@openssh.com":
        bits = _ed25519_bits(reader)
    elif key_type == "sk-ecdsa-sha2-nistp256@openssh.com":
        bits = _ecdsa_bits("nistp256", reader)
    else:
        return _ecdsa_bits(key_type.removeprefix("ecdsa-sha2-"), reader)
    if not reader.field():  # a security key names the application it is for, "ssh:" by default
        raise _damaged()
    return bits


def _rsa_bits(reader: _Reader) -> int:
    exponent, modulus = reader.number(), reader.number()
    bits = modulus.bit_length()
    if bits < RSA_LEAST_BITS:
        raise _refuse(
            _(
                "This RSA key has %(bits)d bits; at least %(least)d are needed. Make a new one with: ssh-keygen "
                "-t ed25519"
            )
            % {"bits": bits, "least": RSA_LEAST_BITS}
        )
    if bits > RSA_MOST_BITS:
        raise _refuse(
            _("This RSA key has %(bits)d bits; OpenSSH reads at most %(most)d.")
            % {"bits": bits, "most": RSA_MOST_BITS}
        )
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0 or exponent >= modulus:
        raise _damaged()
    return bits


def _ed25519_bits(reader: _Reader) -> int:
    if len(reader.field()) != 32:
        raise _damaged()
    return 256


def _ecdsa_bits(name: str, reader: _Reader) -> int:
    bits, curve = CURVES[name]
    if reader.text() != name:
        raise _damaged()
    try:
        # Refuses a point that is not on the curve.
        ec.EllipticCurvePublicKey.from_encoded_point(curve, reader.field())
    except ValueError:
        raise _damaged() from None
    return bits


class _Reader:
    """Reads the length-prefixed fields of a key blob (RFC 4251 section 5)."""

    def __init__(self, blob: bytes) -> None:
        self.left = blob

    def field(self) -> bytes:
        length = int.from_bytes(self.left[:4], "big")
        if len(self.left) < 4 or len(self.left) < 4 + length:
            raise _damaged()
        found, self.left = self.left[4 : 4 + length], self.left[4 + length :]
        return found

    def text(self) -> str:
        try:
            return self.field().decode("ascii")
        except UnicodeDecodeError:
            raise _damaged() from None

    def number(self) -> int:
        """Read a positive ``mpint`` in its only valid (shortest) form."""
        found = self.field()
        if not found or found[0] & 0x80 or (found[0] == 0 and (len(found) < 2 or not found[1] & 0x80)):
            raise _damaged()
        return int.from_bytes(found, "big")

    def end(self) -> None:
        if self.left:
            raise _damaged()


def _refuse(reason: str) -> InvalidInput:
    return InvalidInput(reason, field="public_key")


def _damaged() -> InvalidInput:
    return _refuse(_("The key is damaged or cut off. Copy the whole line again."))


def _record(kind: str, key: SSHKey, actor: User, now: datetime) -> None:
    events.record(
        kind=kind,
        subject_type="ssh_key",
        subject_id=key.uid,
        organization=key.organization,
        actor=actor,
        now=now,
        after={"name": key.name, "type": key.key_type, "fingerprint": key.fingerprint},
    )
