"""Public keys are read strictly; what is refused says why, and nothing is kept."""

import base64
import hashlib
import shutil
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from portal.accounts import ssh_keys
from portal.accounts.models import Event, SSHKey
from portal.common.errors import Forbidden, InvalidInput, NotFound
from tests.factories import NOW, make_membership, make_organization, make_user


def public(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def wire(*fields):
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def line(*fields, key_type=None):
    blob = wire(*fields)
    return f"{key_type or fields[0].decode()} {base64.b64encode(blob).decode()}"


def mpint(number):
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 3072)


ED = ed25519.Ed25519PrivateKey.generate()
ED_RAW = ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
CURVES = {"nistp256": ec.SECP256R1(), "nistp384": ec.SECP384R1(), "nistp521": ec.SECP521R1()}
EC = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
POINT = EC["nistp256"].public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
SK_ED = line(b"sk-ssh-ed25519@openssh.com", ED_RAW, b"ssh:")
SK_EC = line(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", POINT, b"ssh:")

GOOD = {
    "ed25519": (public(ED), "ssh-ed25519", 256),
    "ecdsa-256": (public(EC["nistp256"]), "ecdsa-sha2-nistp256", 256),
    "ecdsa-384": (public(EC["nistp384"]), "ecdsa-sha2-nistp384", 384),
    "ecdsa-521": (public(EC["nistp521"]), "ecdsa-sha2-nistp521", 521),
    "sk-ed25519": (SK_ED, "sk-ssh-ed25519@openssh.com", 256),
    "sk-ecdsa": (SK_EC, "sk-ecdsa-sha2-nistp256@openssh.com", 256),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_keys(name):
    text, key_type, bits = GOOD[name]
    parsed = ssh_keys.parse(f"  {text} ada@laptop of mine \n")
    assert (parsed.key_type, parsed.bits, parsed.comment) == (key_type, bits, "ada@laptop of mine")
    assert parsed.public_key == text
    digest = hashlib.sha256(base64.b64decode(text.split()[1])).digest()
    assert parsed.fingerprint == "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def test_rsa_of_3072_bits(rsa_key):
    parsed = ssh_keys.parse(public(rsa_key))
    assert (parsed.key_type, parsed.bits) == ("ssh-rsa", 3072)


@pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="compares with OpenSSH, which is not installed"
)
@pytest.mark.parametrize("name", [*GOOD, "rsa"])
def test_openssh_sees_the_same(name, rsa_key, tmp_path):
    text = public(rsa_key) if name == "rsa" else GOOD[name][0]
    file = tmp_path / "key.pub"
    file.write_text(f"{text} comment\n")
    seen = subprocess.run(["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True).stdout
    parsed = ssh_keys.parse(text)
    assert seen.split()[:2] == [str(parsed.bits), parsed.fingerprint]


@pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="makes keys with OpenSSH, which is not installed"
)
@pytest.mark.parametrize(
    ("kind", "bits"), [("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 3072)]
)
def test_keys_that_openssh_makes(kind, bits, tmp_path):
    file = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-C", "ada", "-f", file], check=True
    )
    parsed = ssh_keys.parse((tmp_path / "key.pub").read_text())
    assert (parsed.bits, parsed.comment) == (bits, "ada")
    with pytest.raises(InvalidInput, match="private key"):
        ssh_keys.parse(file.read_text())


def _short_rsa():
    return public(rsa.generate_private_key(65537, 2048))


def _dsa():
    return line(b"ssh-dss", mpint(1 << 1023), mpint(1 << 159), mpint(2), mpint(3))


def _pem_private():
    return ED.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _pem_public():
    return ED.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _certificate():
    return "ssh-ed25519-cert-v01@openssh.com " + base64.b64encode(wire(b"x")).decode()


N3072 = (1 << 3071) | 1
BAD = {
    "nothing": ("  \n ", "Paste a public key"),
    "prose": ("here is my key", "does not look like"),
    "dsa": (_dsa, "DSA"),
    "short rsa": (_short_rsa, "2048 bits; at least 3072"),
    "long rsa": (lambda: line(b"ssh-rsa", mpint(65537), mpint((1 << 16500) | 1)), "at most 16384"),
    "private key": (_pem_private, "private key"),
    "one-line private key": ("-----BEGIN RSA PRIVATE KEY----- AAAA", "private key"),
    "putty private key": ("PuTTY-User-Key-File-3: ssh-ed25519\nx", "private key"),
    "pem public key": (_pem_public, "another format"),
    "rfc 4716": ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "another format"),
    "certificate": (_certificate, "certificate"),
    "ssh 1": ("2048 65537 123456789 ada", "SSH version 1"),
    "options": (lambda: f'command="ls",no-pty {public(ED)}', "Options"),
    "options with spaces": (lambda: f'from="10.0.0.0/8" {SK_ED}', "Options"),
    "two keys": (lambda: f"{public(ED)}\n{SK_ED}", "one key at a time"),
    "a broken line": (lambda: public(ED)[:40] + "\n" + public(ED)[40:], "one key at a time"),
    "unicode line break": (lambda: public(ED) + "\u2028" + SK_ED, "one key at a time"),
    "control characters": (lambda: public(ED) + " \x00\x1b[2J", "control characters"),
    "no type": (lambda: public(ED).split()[1], "type is missing"),
    "no key": ("ssh-ed25519", "missing after ssh-ed25519"),
    "bad base64": (lambda: public(ED)[:-3] + "!!!", "base64"),
    "padding left out": (lambda: _without_padding(), "base64"),
    "cut off": (lambda: public(ED)[:-8], "damaged|base64"),
    "type and key differ": (
        lambda: "ssh-rsa " + public(ED).split()[1],
        "says ssh-rsa but the key inside is ssh-ed25519",
    ),
    "ecdsa type and key differ": (
        lambda: "ecdsa-sha2-nistp384 " + public(EC["nistp256"]).split()[1],
        "the key inside is ecdsa-sha2-nistp256",
    ),
    "curve differs inside": (lambda: line(b"ecdsa-sha2-nistp256", b"nistp384", POINT), "damaged"),
    "point off the curve": (
        lambda: line(b"ecdsa-sha2-nistp256", b"nistp256", POINT[:-1] + b"\x00"),
        "damaged",
    ),
    "point of another curve": (
        lambda: line(b"ecdsa-sha2-nistp384", b"nistp384", POINT),
        "damaged",
    ),
    "ed25519 too short": (lambda: line(b"ssh-ed25519", ED_RAW[:31]), "damaged"),
    "something behind": (lambda: line(b"ssh-ed25519", ED_RAW, b"more"), "damaged"),
    "sk without application": (lambda: line(b"sk-ssh-ed25519@openssh.com", ED_RAW, b""), "damaged"),
    "sk cut off": (lambda: line(b"sk-ssh-ed25519@openssh.com", ED_RAW), "damaged"),
    "even exponent": (lambda: line(b"ssh-rsa", mpint(4), mpint(N3072)), "damaged"),
    "exponent one": (lambda: line(b"ssh-rsa", mpint(1), mpint(N3072)), "damaged"),
    "even modulus": (lambda: line(b"ssh-rsa", mpint(3), mpint(1 << 3071)), "damaged"),
    "negative modulus": (lambda: line(b"ssh-rsa", mpint(3), b"\xff" * 384), "damaged"),
    "padded modulus": (lambda: line(b"ssh-rsa", mpint(3), b"\x00\x00" + mpint(N3072)), "damaged"),
    "length beyond the end": (
        lambda: "ssh-ed25519 " + base64.b64encode(b"\xff\xff\xff\xffssh").decode(),
        "damaged",
    ),
    "unknown ssh type": ("ssh-xmss@openssh.com AAAA", "are not accepted"),
    "16 KB": ("ssh-ed25519 " + "A" * 20_000, "too long"),
}


def _without_padding():
    text = next(text for text, _, _ in GOOD.values() if text.endswith("="))
    return text.rstrip("=")


@pytest.mark.parametrize("name", BAD)
def test_bad_keys_are_refused_with_the_reason(name):
    text, reason = BAD[name]
    with pytest.raises(InvalidInput, match=reason) as refused:
        ssh_keys.parse(text() if callable(text) else text)
    assert refused.value.field == "public_key"


def add(member, text=None, name="laptop"):
    return ssh_keys.add_ssh_key(
        actor=member.user,
        organization=member.organization,
        name=name,
        public_key=text or public(ED),
        now=NOW,
    )


@pytest.fixture
def member(db):
    return make_membership(organization=make_organization(), role="member")


def test_a_member_adds_a_key(member):
    key = add(member, public(ED) + " ada@laptop", name="")
    assert (key.name, key.added_by, key.organization) == ("ada@laptop", member.user, member.organization)
    assert key.public_key == public(ED)  # the comment is not handed to machines
    event = Event.objects.get(kind="ssh_key.added")
    assert event.after == {"name": "ada@laptop", "type": "ssh-ed25519", "fingerprint": key.fingerprint}


def test_a_bad_key_or_name_adds_nothing(member):
    for text, name in ((_dsa(), "x"), (public(ED), "n" * 81)):
        with pytest.raises(InvalidInput):
            add(member, text, name)
    assert not SSHKey.objects.exists()
    assert not Event.objects.exists()


def test_the_same_key_twice_names_the_first(member):
    add(member, name="first")
    with pytest.raises(ssh_keys.DuplicateKey, match="first"):
        add(member, public(ED) + " another comment", name="second")
    assert SSHKey.objects.get().name == "first"
    other = make_membership(organization=make_organization(), role="member")
    assert add(other).organization == other.organization  # another organization may have it too


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_roles_that_lease_nothing_add_nothing(role, db):
    with pytest.raises(Forbidden):
        add(make_membership(organization=make_organization(), role=role))
    assert not SSHKey.objects.exists()


def test_who_removes_whose_key(member):
    key = add(member)
    colleague = make_membership(organization=member.organization, role="member")
    with pytest.raises(Forbidden):
        ssh_keys.remove_ssh_key(actor=colleague.user, ssh_key=key, now=NOW)
    assert SSHKey.objects.filter(pk=key.pk).exists()
    admin = make_membership(organization=member.organization, role="admin")
    ssh_keys.remove_ssh_key(actor=admin.user, ssh_key=key, now=NOW)
    ssh_keys.remove_ssh_key(actor=admin.user, ssh_key=key, now=NOW)
    assert not SSHKey.objects.exists()
    assert Event.objects.filter(kind="ssh_key.removed").count() == 1
    mine = add(member)
    ssh_keys.remove_ssh_key(actor=member.user, ssh_key=mine, now=NOW)
    assert not SSHKey.objects.exists()


def test_there_is_a_limit(member, monkeypatch):
    monkeypatch.setattr(ssh_keys, "MOST_KEYS", 1)
    add(member)
    with pytest.raises(ssh_keys.TooManyKeys):
        add(member, SK_ED)
    assert SSHKey.objects.count() == 1


def test_strangers_do_not_learn_of_the_organization(member):
    with pytest.raises(NotFound):
        ssh_keys.add_ssh_key(
            actor=make_user(), organization=member.organization, name="x", public_key=public(ED), now=NOW
        )
