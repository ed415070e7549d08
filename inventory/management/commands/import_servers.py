"""Import servers that the reseller owns."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from inventory.models import ProviderAccount
from inventory.own_servers import ServerFileError, import_servers
from portal.common.errors import DomainError

DESCRIPTION = """\
Add servers of our own to the fleet.

  manage.py import_servers "Own servers" servers.csv

The file is CSV in UTF-8 with the header

  name,region,zone,instance_type,gpu_model,gpus_per_node,available_from,available_until,usd_per_hour
  [,vcpus,memory_gib,interconnect,fabric]

One line is one server. Dates are UTC (2026-12-01, or with a time and offset). The cost is
what an hour of the whole server costs us. Servers with the same zone, type, dates and
cost become one commitment, delivered at once. Either every line is stored or, when any is
bad, nothing, and the errors name their lines. Servers that are nodes already are left alone.
"""


class Command(BaseCommand):
    """Parse, call one function, print what it did."""

    help = DESCRIPTION

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument("account", help="the provider account's name")
        parser.add_argument("file", type=Path, metavar="FILE.csv", help="the servers")

    def handle(self, *args: Any, account: str, file: Path, **options: Any) -> None:
        row = ProviderAccount.objects.filter(name=account).first()
        if row is None:
            known = ", ".join(ProviderAccount.objects.order_by("name").values_list("name", flat=True))
            raise CommandError(f"There is no provider account “{account}”. Known: {known or 'none'}.")
        try:
            with file.open("rb") as opened:
                result = import_servers(account_id=row.pk, file=opened, actor=None, now=timezone.now())
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from None
        except ServerFileError as error:
            raise CommandError(f"{file}: nothing was imported.\n{error}") from None
        except DomainError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"{result.added} servers added in {len(result.commitments)} commitments, {result.known} known already"
        )
