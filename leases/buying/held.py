"""Compare commitments with what their provider says we hold: differences are told, never corrected."""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import datetime
from typing import cast

from django.utils.translation import gettext as _

from inventory.models import Commitment
from inventory.providers import base
from inventory.providers.errors import ProviderError
from leases.provisioning import upstream
from leases.provisioning.claims import Clock
from leases.provisioning.messages import DAILY, tell_staff
from portal.common.transactions import durable

log = logging.getLogger(__name__)


def check_reservations(*, now: datetime) -> int:
    """Tell staff, once a day, of commitments whose reservation is missing, ended, failed or of another size.

    Only accounts whose provider lists reservations are asked; a listing that fails says
    nothing. Returns how many commitments differ. Reads only, but for the event log.
    """
    clock, providers, differ = Clock(now), upstream.Providers(), 0
    places: dict[tuple[int, str], list[Commitment]] = defaultdict(list)
    for commitment in (
        Commitment.objects.filter(
            cancelled_at=None,
            promised__endswith__gt=now,
            account__enabled=True,
            account__credentials__isnull=False,
        )
        .exclude(reservation_id="")
        # A group of reservations (AWS names it by an ARN) is listed by its members only.
        .exclude(reservation_id__startswith="arn:")
        .exclude(account__provider__kind="")
        .select_related("account__provider", "zone__region", "instance_type")
        .order_by("pk")
    ):
        places[commitment.account_id, commitment.zone.region.code].append(commitment)
    for (_account, region), held in places.items():
        try:
            with providers.of(held[0].account) as provider:
                if base.Capability.BUYABLE_CAPACITY not in provider.capabilities:
                    continue
                listed = cast(base.CapacitySeller, provider).reservations(region=region)
        except ProviderError as error:
            log.warning(
                "reservations_failed",
                extra={"account": held[0].account.name, "region": region, "error": str(error)},
            )
            continue
        known = {reservation.id: reservation for reservation in listed}
        for commitment in held:
            if problem := _problem(commitment, known.get(commitment.reservation_id)):
                differ += 1
                _tell(commitment, problem, clock())
    return differ


def _problem(commitment: Commitment, reservation: base.Reservation | None) -> str:
    """Return what is wrong with a commitment's reservation, or ""."""
    if reservation is None:
        return _("the provider lists no such reservation")
    if reservation.state in ("failed", "ended"):
        return _("the provider says that it is %(state)s") % {
            "state": reservation.raw_state or reservation.state
        }
    if reservation.instance_type != commitment.instance_type.name:
        return _("the provider says that it is for %(type)s") % {"type": reservation.instance_type}
    if reservation.count < commitment.quantity:
        return _("the provider says that it has %(theirs)s nodes, the commitment %(ours)s") % {
            "theirs": reservation.count,
            "ours": commitment.quantity,
        }
    if reservation.end and reservation.end < commitment.promised.upper:
        return _("the provider ends it %(end)s UTC, before the commitment does") % {
            "end": f"{reservation.end:%Y-%m-%d %H:%M}"
        }
    return ""


def _tell(commitment: Commitment, problem: str, now: datetime) -> None:
    with durable():
        tell_staff(
            kind="reservation.differs",
            subject_type="commitment",
            subject_id=commitment.uid,
            now=now,
            after={"reservation": commitment.reservation_id, "problem": problem},
            message=_("Reservation %(id)s of commitment %(uid)s: %(problem)s.")
            % {"id": commitment.reservation_id, "uid": commitment.uid, "problem": problem},
            quiet=DAILY,
        )
