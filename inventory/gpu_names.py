"""What providers call a GPU, and which model that is: facts and staff's choices, never guesses.

A spelling is looked up as the provider's own instance type, then as the provider's GPU,
then as anybody's GPU, and last as the slug or name of one of our models. Case, spaces
and punctuation never matter. The first of those that decides is the answer; where
rows of one kind disagree, the spelling stays unknown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Q

from inventory.models import GpuModel, GpuSpelling
from inventory.providers.base import InstanceTypeInfo
from portal.common.transactions import require_transaction

LONGEST = 120  # of a spelling, folded
MARKS = str.maketrans("™®©", "   ")
APART = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Spelled:
    """How a provider names the GPU of one instance type; ``memory_mib`` of one GPU, 0 where not given."""

    instance_type: str
    gpu: str
    memory_mib: int

    @classmethod
    def of(cls, info: InstanceTypeInfo) -> Spelled:
        return cls(normalise(info.name), normalise(info.gpu_name), max(info.gpu_memory_mib, 0))

    @property
    def spelling(self) -> str:
        """What is recorded while it is unknown: the GPU's name, or else the type's."""
        return self.gpu or self.instance_type


@dataclass(frozen=True, slots=True)
class Meaning:
    """A model, or a GPU that is left out; neither when nobody has said yet."""

    gpu_model: GpuModel | None = None
    ignored: bool = False

    @property
    def known(self) -> bool:
        return self.ignored or self.gpu_model is not None


UNKNOWN = Meaning()


def normalise(text: str) -> str:
    """Return a spelling with case folded and every run of spaces and punctuation as one space."""
    folded = text.translate(MARKS)
    for _turn in range(2):  # folding can undo the composition, and the other way round
        folded = unicodedata.normalize("NFKC", folded.casefold())
    return APART.sub(" ", folded).strip()[:LONGEST].rstrip()


def resolve(
    *, provider_id: int | None, gpu_name: str, memory_mib: int = 0, instance_type: str = ""
) -> GpuModel | None:
    """Return the model that one spelling means, or None; for many, call :func:`resolve_all`."""
    asked = Spelled(normalise(instance_type), normalise(gpu_name), memory_mib)
    return resolve_all(provider_id=provider_id, asked=[asked])[asked].gpu_model


def resolve_all(*, provider_id: int | None, asked: Collection[Spelled]) -> dict[Spelled, Meaning]:
    """Return what each spelling means, with two queries however many are asked."""
    decided = GpuSpelling.objects.filter(Q(provider=None) | Q(provider_id=provider_id)).exclude(
        gpu_model=None, ignored=False
    )
    own: dict[str, list[GpuSpelling]] = defaultdict(list)
    anybody: dict[str, list[GpuSpelling]] = defaultdict(list)
    for row in decided.select_related("gpu_model"):
        (anybody if row.provider_id is None else own)[row.spelling].append(row)
    models = _by_name(GpuModel.objects.all())
    return {item: _meaning(item, own, anybody, models) for item in set(asked)}


def record_unknown(
    *, provider_id: int, seen: Mapping[Spelled, str], now: datetime, at_most: int = 1000
) -> None:
    """Part: keep what nobody has decided yet, each with one example, and count that it was listed.

    Call :func:`inventory.prices.lock_catalog` first. More than ``at_most`` at once are not
    kept: that is a fault of the answer, and not a list for a person.
    """
    require_transaction()
    rows = {
        (item.spelling, item.memory_mib): {
            "spelling": item.spelling,
            "memory_mib": item.memory_mib,
            "example": example[:200],
        }
        for item, example in seen.items()
    }
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO inventory_gpuspelling AS s
                (provider_id, spelling, memory_mib, ignored, note, source, example, times_listed,
                 first_seen_at, last_seen_at)
            SELECT %(provider)s, n.spelling, n.memory_mib, false, '', 'poll', n.example, 1, %(now)s, %(now)s
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS n(spelling text, memory_mib integer, example text)
            ON CONFLICT (provider_id, spelling, memory_mib) DO UPDATE
            SET times_listed = s.times_listed + 1, last_seen_at = EXCLUDED.last_seen_at,
                first_seen_at = coalesce(s.first_seen_at, EXCLUDED.first_seen_at), example = EXCLUDED.example
            """,
            {
                "provider": provider_id,
                "rows": json.dumps([rows[key] for key in sorted(rows)[:at_most]]),
                "now": now,
            },
        )


def forget_answered() -> int:
    """Part: delete spellings that polls could not tell and that another row answers by now."""
    require_transaction()
    open_rows: dict[int | None, dict[int, Spelled]] = defaultdict(dict)
    for row in GpuSpelling.objects.filter(
        gpu_model=None, ignored=False, source=GpuSpelling.Source.POLL
    ).select_for_update(no_key=True, of=("self",)):
        open_rows[row.provider_id][row.pk] = Spelled(row.spelling, row.spelling, row.memory_mib)
    answered = []
    for provider_id, rows in open_rows.items():
        meanings = resolve_all(provider_id=provider_id, asked=rows.values())
        answered += [pk for pk, item in rows.items() if meanings[item].known]
    return GpuSpelling.objects.filter(pk__in=answered).delete()[0]


def _meaning(
    item: Spelled,
    own: Mapping[str, Sequence[GpuSpelling]],
    anybody: Mapping[str, Sequence[GpuSpelling]],
    models: Mapping[str, GpuModel | None],
) -> Meaning:
    for rows in (own.get(item.instance_type), own.get(item.gpu), anybody.get(item.gpu)):
        if rows and (found := _match(rows, item.memory_mib)).known:
            return found
    model = models.get(item.gpu)
    if model and (not item.memory_mib or _close(item.memory_mib, model.memory_gib * 1024)):
        return Meaning(model)
    return UNKNOWN


def _match(rows: Sequence[GpuSpelling], memory_mib: int) -> Meaning:
    """Return what rows of one spelling say about a GPU with this memory.

    The same memory decides. Next come rows with about as much: providers report one card
    as 80 GB, 80 GiB or what its driver leaves. Last is the row for any memory, unless its
    model has another memory than the provider says. Without a memory only that row counts.
    """
    for row in rows:
        if row.memory_mib == memory_mib:
            return _said(row)
    if not memory_mib:
        return UNKNOWN
    near = {_said(row) for row in rows if row.memory_mib and _close(row.memory_mib, memory_mib)}
    if near:
        return near.pop() if len(near) == 1 else UNKNOWN
    for row in rows:
        if not row.memory_mib and (
            row.gpu_model is None or _close(memory_mib, row.gpu_model.memory_gib * 1024)
        ):
            return _said(row)
    return UNKNOWN


def _said(row: GpuSpelling) -> Meaning:
    return Meaning(row.gpu_model, row.ignored)


def _close(one: int, other: int) -> bool:
    """Return whether two figures are the memory of one card, given in GB, in GiB or less its own use."""
    return abs(one - other) * 10 <= max(one, other)


def _by_name(models: Iterable[GpuModel]) -> dict[str, GpuModel | None]:
    """Return our models by their own slug and name; a name that two share means neither."""
    found: dict[str, GpuModel | None] = {}
    for model in models:
        for name in {normalise(model.slug), normalise(model.name)}:
            found[name] = None if name in found else model
    return found
