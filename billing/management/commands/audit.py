"""``manage.py audit``: is every promise of the design true of the data?"""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.auditing import all_checks, run_all


class Command(BaseCommand):
    help = (
        "Check every invariant (capacity C, provisioning P, money M, vendor bills V) against the data. "
        "Prints rows checked and violations per invariant; exits 1 when any is violated. Changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object per invariant, a line each")
        parser.add_argument(
            "--only", metavar="ID", nargs="+", default=[], help="check just these, for example: C1 M3"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        only = frozenset(name.upper() for name in options["only"])
        unknown = only - {check.id for check in all_checks()}
        if unknown:
            known = " ".join(sorted(check.id for check in all_checks()))
            raise CommandError(f"No such invariant: {' '.join(sorted(unknown))}. There are {known}.")
        outcomes = run_all(only=only)
        for outcome in outcomes:
            if options["json"]:
                self.stdout.write(json.dumps(outcome.as_dict()))
                continue
            mark = self.style.ERROR("FAIL") if outcome.violations else self.style.SUCCESS("ok  ")
            count = f"{outcome.checked:>9,} checked  {outcome.violations:>5,} wrong"
            self.stdout.write(f"{mark}  {outcome.id:<4}{count}  {outcome.title}")
            for example in outcome.examples:
                self.stdout.write(f"            {example}")
        violated = [outcome for outcome in outcomes if outcome.violations]
        if not options["json"]:
            self.stdout.write(
                self.style.ERROR(f"{len(violated)} of {len(outcomes)} invariants are violated.")
                if violated
                else self.style.SUCCESS(f"All {len(outcomes)} invariants hold.")
            )
        if violated:
            sys.exit(1)
