"""Import a provider's rate card, or what ships with Sublet."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from inventory.catalog import load_shipped, shipped_card
from inventory.models import Provider
from inventory.rate_cards import ImportResult, RateCardError, import_prices
from portal.common.errors import DomainError

DESCRIPTION = """\
Import list prices that no API gives.

  manage.py import_prices nebius card.csv    a provider's own card
  manage.py import_prices nebius --shipped   the list prices that ship with Sublet
  manage.py import_prices --shipped          everything that ships: providers, GPU models,
                                             instance types, software stacks, and prices where
                                             none is known

The file is CSV in UTF-8 with the header

  region,instance_type,usd_per_hour[,usd_per_hour_spot]

Prices are US dollars per hour of a whole instance. An empty spot price means that there
is none. Either every line is stored or, when any is bad, nothing, and the errors name
their lines. Prices that did not change are not written again.
"""


class Command(BaseCommand):
    """Parse, call one function, print what it did."""

    help = DESCRIPTION

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument("provider", nargs="?", help="provider slug, for example aws")
        parser.add_argument("file", nargs="?", type=Path, metavar="FILE.csv", help="the rate card")
        parser.add_argument("--shipped", action="store_true", help="use what ships with Sublet")

    def handle(
        self, *args: Any, provider: str | None, file: Path | None, shipped: bool, **options: Any
    ) -> None:
        if shipped and file:
            raise CommandError("Give either FILE.csv or --shipped, not both.")
        if shipped and not provider:
            self.load_everything()
            return
        if not provider or not (file or shipped):
            raise CommandError("Give PROVIDER and FILE.csv, or --shipped. See --help.")
        result = self.import_file(self.find(provider), file or shipped_card(provider))
        self.stdout.write(f"{provider}: {describe(result)}")

    def find(self, slug: str) -> Provider:
        try:
            return Provider.objects.get(slug=slug)
        except Provider.DoesNotExist:
            known = ", ".join(Provider.objects.order_by("slug").values_list("slug", flat=True))
            raise CommandError(
                f"There is no provider “{slug}”. "
                + (f"Known: {known}." if known else "Run: manage.py import_prices --shipped")
            ) from None

    def import_file(self, provider: Provider, path: Path) -> ImportResult:
        try:
            with path.open("rb") as file:
                return import_prices(provider=provider, file=file, now=timezone.now())
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        except RateCardError as error:
            raise CommandError(f"{path}: nothing was imported.\n{error}") from None
        except DomainError as error:
            raise CommandError(str(error)) from None

    def load_everything(self) -> None:
        shipped = load_shipped(now=timezone.now())
        self.stdout.write(
            f"{shipped.providers} providers, {shipped.gpu_models} GPU models, "
            f"{shipped.gpu_spellings} GPU spellings and {shipped.instance_types} instance types added"
        )
        self.stdout.write(f"{shipped.stacks} software stacks with {shipped.images} images added")
        for slug, result in sorted(shipped.cards.items()):
            self.stdout.write(f"{slug}: {describe(result)}")


def describe(result: ImportResult) -> str:
    return (
        f"{result.lines} lines, {result.regions_added} regions added, {result.offers_added} offers added, "
        f"{result.prices_changed} prices changed, {result.unchanged} unchanged"
    )
