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


def encrypted_columns() -> Iterator[tuple[type[models.Model], str]]:
    """Yield every column that holds a secret under ``SUBLET_FERNET_KEYS``.

    In Sublet every binary column does, except those that keep a hash and say so in
    their name (``token_hash``): a hash cannot be opened at all.
    """
    for model in apps.get_models():
        for field in model._meta.local_concrete_fields:
            if isinstance(field, models.BinaryField) and not field.name.endswith("_hash"):
                yield model, field.name


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
                    done += self.rotate_one(model, name, pk)
                except InvalidToken:
                    failed.append(f"{model._meta.label} {pk}")
            self.stdout.write(f"{model._meta.label}.{name}: {done} rotated")
        if failed:
            raise CommandError(
                "No configured key opens these, and they were left as they are: " + ", ".join(failed)
            )

    @staticmethod
    def rotate_one(model: type[models.Model], name: str, pk: Any) -> int:
        with durable():
            row = (
                model._default_manager.select_for_update(no_key=True, of=("self",))
                .only("pk", name)
                .filter(pk=pk)
                .first()
            )
            token = getattr(row, name, None)
            if row is None or token is None:
                return 0
            return model._default_manager.filter(pk=pk).update(**{name: rotate(token)})
