"""Encrypt every stored secret again, under the newest key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.fernet import InvalidToken
from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import models

from portal.common.crypto import rotate
from portal.common.transactions import durable

# What every Fernet token begins with: the version byte 0x80, in base64.
TOKEN_START = "gAAAAA"  # noqa: S105


def encrypted_columns() -> Iterator[tuple[type[models.Model], str]]:
    """Yield every column that holds secrets under ``SUBLET_FERNET_KEYS``.

    In Sublet every binary column is one, except those that keep a hash and say so in
    their name (``token_hash``): a hash cannot be opened at all. Second factors keep
    theirs inside of JSON (:class:`portal.accounts.adapters.MFAAdapter`).
    """
    for model in apps.get_models():
        for field in model._meta.local_concrete_fields:
            if isinstance(field, models.BinaryField) and not field.name.endswith("_hash"):
                yield model, field.name
    yield apps.get_model("mfa", "Authenticator"), "data"


class Command(BaseCommand):
    """Row by row, each in its own short transaction: it can be stopped and run again."""

    help = (
        "Encrypt every stored secret again under the first key of SUBLET_FERNET_KEYS. Put the new key in "
        "front, restart all processes, run this, then remove the old key."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        failed: list[str] = []
        for model, name in encrypted_columns():
            rows = model._default_manager.exclude(**{name: None}).order_by("pk")
            done = 0
            for pk in rows.values_list("pk", flat=True).iterator():
                try:
                    done += rotate_one(model, name, pk)
                except InvalidToken:
                    failed.append(f"{model._meta.label} {pk}")
            self.stdout.write(f"{model._meta.label}.{name}: {done} rotated")
        if failed:
            raise CommandError(
                "No configured key opens these, and they were left as they are: " + ", ".join(failed)
            )


def rotate_one(model: type[models.Model], name: str, pk: Any) -> int:
    """Rotate one row's secrets under its lock; returns 0 when it is gone or has none."""
    with durable():
        rows = model._default_manager.filter(pk=pk)
        row = rows.select_for_update(no_key=True, of=("self",)).only("pk", name).first()
        stored = getattr(row, name, None)
        if stored is None:
            return 0
        rotated = rotate(stored) if isinstance(stored, (bytes, memoryview)) else within(stored)
        return rows.update(**{name: rotated}) if rotated != stored else 0


def within(value: Any) -> Any:
    """Return JSON with every token in it rotated."""
    if isinstance(value, dict):
        return {key: within(item) for key, item in value.items()}
    if isinstance(value, list):
        return [within(item) for item in value]
    if isinstance(value, str) and value.startswith(TOKEN_START):
        return rotate(value.encode()).decode()
    return value
