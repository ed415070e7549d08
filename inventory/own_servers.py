"""Import servers that the reseller owns as nodes: a CSV, all of it or nothing.

Owned metal is held like bought capacity: servers with the same zone, type, time and cost
become one commitment, delivered at once, whose cost is what an hour of the server costs
us (depreciation, power, space). The node is called as the server is, so that a launch
reaches exactly that one (:mod:`inventory.providers.metal`).
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import BinaryIO

from django.utils.translation import gettext as _

from inventory import commitments
from inventory.models import (
    Commitment,
    CommitmentDelivery,
    Fabric,
    GpuModel,
    InstanceType,
    Node,
    ProviderAccount,
    Region,
    Zone,
)
from inventory.prices import HIGHEST_PRICE
from inventory.rate_cards import NUMBER, RateCardError, read_text
from inventory.software import architecture_of
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import DomainError
from portal.common.periods import Period
from portal.common.transactions import durable, require_transaction

REQUIRED = (
    "name",
    "region",
    "zone",
    "instance_type",
    "gpu_model",
    "gpus_per_node",
    "available_from",
    "available_until",
    "usd_per_hour",
)
OPTIONAL = ("vcpus", "memory_gib", "interconnect", "fabric")
MAX_SERVERS = 20_000
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", re.ASCII)
SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", re.ASCII)
TURNAROUND = timedelta(minutes=30)


class ServerFileError(RateCardError):
    """The file cannot be imported; ``lines`` says why, as (line number, sentence) pairs."""

    code = "bad-server-file"


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server; times are UTC, the cost is US dollars per hour of the whole server."""

    name: str
    region: str
    zone: str
    instance_type: str
    gpu_model: str
    gpus: int
    vcpus: int | None
    memory_gib: int | None
    interconnect: str
    fabric: str
    available: tuple[datetime, datetime]
    cost: Decimal

    @property
    def lot(self) -> tuple[str, str, str, tuple[datetime, datetime], Decimal]:
        """Servers that share these are one commitment."""
        return self.region, self.zone, self.instance_type, self.available, self.cost


@dataclass(frozen=True, slots=True)
class ServersImported:
    """``known`` servers were there already, just as the file says, and nothing was written for them."""

    added: int
    known: int
    commitments: tuple[Commitment, ...]


def import_servers(*, account_id: int, file: BinaryIO, actor: User | None, now: datetime) -> ServersImported:
    """Add the servers of a CSV file to an account's fleet.

    Locks the account's row, so that two imports follow one another; the same file again
    adds nothing. Raises :class:`ServerFileError` with every bad line, and
    :class:`~inventory.commitments.ResaleNotAllowed`; nothing is stored then.
    """
    with durable():
        account = (
            ProviderAccount.objects.select_for_update(no_key=True, of=("self",))
            .select_related("provider")
            .get(pk=account_id)
        )
        if not account.resale_allowed:
            raise commitments.ResaleNotAllowed(
                _("Tick on %(account)s that its capacity may be sublet, first.") % {"account": account}
            )
        lines = read_servers(file)
        new = _new(account, lines)
        made = [_lot(account, group, actor=actor, now=now) for group in _lots(new)]
        if new:
            events.record(
                kind="servers.imported",
                subject_type="provider_account",
                subject_id=str(account.pk),
                actor=actor,
                now=now,
                after={"added": len(new), "commitments": [commitment.uid for commitment in made]},
            )
    return ServersImported(len(new), len(lines) - len(new), tuple(made))


def read_servers(file: BinaryIO) -> dict[int, ServerLine]:
    """Return the checked servers by line number; raises :class:`ServerFileError` naming every bad line."""
    try:
        text = read_text(file)
    except RateCardError as error:
        raise ServerFileError(error.lines) from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    problems = [
        _("Column “%(name)s” is missing.") % {"name": name} for name in REQUIRED if name not in columns
    ]
    problems += [
        _("Column “%(name)s” is unknown.") % {"name": name[:60]}
        for name in columns
        if name not in REQUIRED + OPTIONAL
    ]
    if problems:
        raise ServerFileError([(1, problem) for problem in problems])
    lines: dict[int, ServerLine] = {}
    bad: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    models = set(GpuModel.objects.values_list("slug", flat=True))
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                bad.append((number, _("The line has another number of fields than the header.")))
                continue
            line, wrong = _line({name: str(value).strip() for name, value in row.items()}, models)
            earlier = first.setdefault(line.name, number) if line else number
            if earlier != number:
                wrong.append(
                    _("%(name)s is on line %(line)s already.") % {"name": row["name"], "line": earlier}
                )
            bad += [(number, problem) for problem in wrong]
            if line and not wrong:
                lines[number] = line
            if len(lines) > MAX_SERVERS:
                raise ServerFileError(
                    [(number, _("More than %(n)s servers: split the file.") % {"n": MAX_SERVERS})]
                )
    except csv.Error as error:
        raise ServerFileError([(reader.line_num, _("Not CSV: %(error)s.") % {"error": error})]) from error
    if bad:
        raise ServerFileError(bad)
    if not lines:
        raise ServerFileError([(0, _("The file has a header but no servers."))])
    return lines


def _line(values: Mapping[str, str], models: set[str]) -> tuple[ServerLine | None, list[str]]:
    problems: list[str] = []
    for name, pattern in (("name", SERVER), ("region", CODE), ("zone", CODE), ("instance_type", CODE)):
        if not pattern.fullmatch(values[name]):
            problems.append(
                _("%(column)s “%(text)s” may have letters, digits, “.”, “-” and “_” only.")
                % {"column": name, "text": values[name][:60]}
            )
    if values["gpu_model"] not in models:
        problems.append(
            _("gpu_model “%(text)s” is not in the catalog: use a slug such as h100-sxm5-80gb.")
            % {"text": values["gpu_model"][:60]}
        )
    numbers = {
        name: _whole(name, values.get(name, ""), problems, required=name == "gpus_per_node")
        for name in ("gpus_per_node", "vcpus", "memory_gib")
    }
    times = [_moment(name, values[name], problems) for name in ("available_from", "available_until")]
    if None not in times and times[0] >= times[1] - 2 * TURNAROUND:  # type: ignore[operator]
        problems.append(_("available_until must be more than an hour after available_from."))
    cost = Decimal(values["usd_per_hour"]) if NUMBER.fullmatch(values["usd_per_hour"]) else None
    if cost is None or not 0 <= cost < HIGHEST_PRICE:
        problems.append(
            _("usd_per_hour “%(text)s” is not an amount such as 12.50.")
            % {"text": values["usd_per_hour"][:40]}
        )
    if problems:
        return None, problems
    start, end = times
    assert start and end and cost is not None and numbers["gpus_per_node"]
    return (
        ServerLine(
            name=values["name"],
            region=values["region"],
            zone=values["zone"],
            instance_type=values["instance_type"],
            gpu_model=values["gpu_model"],
            gpus=numbers["gpus_per_node"],
            vcpus=numbers["vcpus"],
            memory_gib=numbers["memory_gib"],
            interconnect=values.get("interconnect", "")[:60],
            fabric=values.get("fabric", "")[:120],
            available=(start, end),
            cost=cost,
        ),
        [],
    )


def _whole(column: str, text: str, problems: list[str], *, required: bool) -> int | None:
    if not text and not required:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 10_000_000):
        problems.append(
            _("%(column)s “%(text)s” is not a whole number of at least 1.")
            % {"column": column, "text": text[:40]}
        )
        return None
    return int(text)


def _moment(column: str, text: str, problems: list[str]) -> datetime | None:
    """Read an ISO 8601 date or time; without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        if not 2000 <= found.year < 2200:
            raise ValueError(text)
    except (ValueError, OverflowError):  # also a year that no calendar of ours has
        problems.append(
            _("%(column)s “%(text)s” is not a date such as 2026-12-01.")
            % {"column": column, "text": text[:40]}
        )
        return None
    return found


def _new(account: ProviderAccount, lines: Mapping[int, ServerLine]) -> list[ServerLine]:
    """Part: return the servers that are not nodes yet; one that is there but different is an error."""
    require_transaction()
    nodes = {
        node.name: node
        for node in Node.objects.filter(name__in=[line.name for line in lines.values()]).select_related(
            "instance_type", "zone__region"
        )
    }
    new: list[ServerLine] = []
    bad: list[tuple[int, str]] = []
    fabrics = dict(
        Fabric.objects.filter(name__in={line.fabric for line in lines.values()}).values_list(
            "name", "zone__code"
        )
    )
    types = {item.name: item for item in InstanceType.objects.filter(provider=account.provider_id)}
    for number, line in lines.items():
        node = nodes.get(line.name)
        item = types.get(line.instance_type)
        if item and (item.gpus_per_node != line.gpus or item.gpu_model.slug != line.gpu_model):
            bad.append(
                (
                    number,
                    _("%(type)s is known with %(n)s × %(gpu)s: use another instance_type.")
                    % {"type": item.name, "n": item.gpus_per_node, "gpu": item.gpu_model.slug},
                )
            )
        elif fabrics.setdefault(line.fabric, line.zone) != line.zone and line.fabric:
            bad.append(
                (number, _("Fabric %(name)s is in another zone: use another name.") % {"name": line.fabric})
            )
        elif node is None:
            new.append(line)
        elif (node.account_id, node.instance_type.name, node.zone.code) != (
            account.pk,
            line.instance_type,
            line.zone,
        ):
            bad.append(
                (number, _("%(name)s is another node already; node names are unique.") % {"name": line.name})
            )
    if bad:
        raise ServerFileError(bad)
    return new


def _lots(lines: Sequence[ServerLine]) -> list[list[ServerLine]]:
    found: dict[object, list[ServerLine]] = defaultdict(list)
    for line in lines:
        found[line.lot].append(line)
    return list(found.values())


def _lot(
    account: ProviderAccount, lines: Sequence[ServerLine], *, actor: User | None, now: datetime
) -> Commitment:
    """Part: make the commitment, its delivery and its nodes."""
    require_transaction()
    first = lines[0]
    region = Region.objects.get_or_create(provider=account.provider, code=first.region)[0]
    zone = Zone.objects.get_or_create(region=region, code=first.zone)[0]
    instance_type = InstanceType.objects.get_or_create(
        provider=account.provider,
        name=first.instance_type,
        defaults={
            "gpu_model": GpuModel.objects.get(slug=first.gpu_model),
            "gpus_per_node": first.gpus,
            "vcpus": first.vcpus,
            "memory_gib": first.memory_gib,
            "interconnect": first.interconnect,
            "architecture": architecture_of(first.gpu_model),
        },
    )[0]
    fabrics = {
        name: Fabric.objects.get_or_create(name=name, defaults={"zone": zone})[0]
        for name in sorted({line.fabric for line in lines if line.fabric})
    }
    commitment = Commitment(
        account=account,
        zone=zone,
        instance_type=instance_type,
        quantity=len(lines),
        promised=Period(*first.available, "[)"),
        cost_per_node_hour=first.cost,
        payment=Commitment.Payment.HOURLY,
        cutoff=timedelta(),
        turnaround=TURNAROUND,
        note=_("Own servers"),
    )
    try:
        commitments.check_commitment(commitment)
    except DomainError as error:
        raise ServerFileError([(0, error.message)]) from error
    commitments.enter(commitment, actor=actor, now=now)
    available = commitments.available_from(commitment, first.available[0])
    CommitmentDelivery.objects.create(
        commitment=commitment,
        nodes=len(lines),
        accepted_from=available.lower,
        recorded_by=actor,
        recorded_at=now,
        note=_("Own servers"),
    )
    Node.objects.bulk_create(
        [
            Node(
                name=line.name,
                account=account,
                commitment=commitment,
                instance_type=instance_type,
                region=region,
                zone=zone,
                fabric=fabrics.get(line.fabric),
                available=available,
                turnaround=TURNAROUND,
            )
            for line in lines
        ]
    )
    return commitment
