"""Booking: from a request to nodes that nobody else can hold.

A quote composes :func:`hold_nodes` with a price in a transaction of its own;
:func:`with_capacity` is the driver around any such transaction.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from django.utils.translation import gettext as _

from inventory.software import stack_for
from leases import lifecycle, picking, search
from leases.errors import NotEnoughCapacity, ShortPick
from leases.models import Lease
from leases.requests import CapacityRequest
from portal.accounts import events
from portal.accounts.models import Organization, Project, SSHKey, User
from portal.accounts.organizations import check_may_book
from portal.common.errors import InvalidInput
from portal.common.transactions import durable, require_transaction, retry_conflicts

T = TypeVar("T")
ROUNDS = 5


def hold(
    *,
    request: CapacityRequest,
    organization: Organization,
    project: Project | None = None,
    name: str,
    actor: User | None,
    now: datetime,
    expires_at: datetime,
    kind: Lease.Kind | str = Lease.Kind.FIXED,
    ssh_keys: Sequence[SSHKey] = (),
    allowed_addresses: Sequence[str] = (),
    image: str = "",
) -> Lease:
    """Hold nodes for the request until ``expires_at`` (UTC) and return the held lease.

    Owns its transactions. Raises :class:`InvalidInput` naming the field, and
    :class:`NotEnoughCapacity` with what could be booked instead.
    """
    request = request.clean_values(now)
    if request.region and "/" not in request.region:
        request.check_catalog()  # more than one provider may use that code

    def attempt(wait: bool) -> Lease:
        with durable():
            return hold_nodes(
                request=request,
                organization=organization,
                project=project,
                name=name,
                actor=actor,
                now=now,
                expires_at=expires_at,
                kind=kind,
                ssh_keys=ssh_keys,
                allowed_addresses=allowed_addresses,
                image=image,
                wait=wait,
            )

    return with_capacity(request=request, now=now, attempt=attempt)


def with_capacity(*, request: CapacityRequest, now: datetime, attempt: Callable[[bool], T]) -> T:
    """Run ``attempt(wait)``, a whole transaction that calls :func:`hold_nodes`, until it is decided.

    The first attempt skips locked nodes. A short pick proves nothing, so the next one
    waits for them (``wait=True``). A pick with lapsed holds in its way is never used:
    they are lapsed in a transaction of their own, and the pick is made again (C5).
    Conflicts are tried again as new transactions. Raises :class:`NotEnoughCapacity` with
    alternatives that are computed after the rollback, or :class:`InvalidInput` for what
    the catalog lacks: what it lacks comes short, so only then it is looked at. The
    request's values must be clean (:meth:`CapacityRequest.clean_values`).
    """
    wait = False
    for _number in range(ROUNDS):
        try:
            return retry_conflicts(lambda wait=wait: attempt(wait))  # type: ignore[misc]
        except ShortPick as short:
            if lifecycle.lapse_these(lease_pks=short.lapsed, now=now):
                continue
            # While one node was waited for, another may have become free.
            if wait and not search.fits(request, now=now):
                break
            wait = True
    request.check_catalog()
    alternatives = search.near_misses(request, now)
    raise NotEnoughCapacity(
        _("There is not enough free capacity for this request.")
        + (
            " " + _("Choose one of the alternatives, or change the dates.")
            if alternatives
            else " " + _("Try other dates or another GPU.")
        ),
        alternatives=[alternative.as_dict() for alternative in alternatives],
    )


def hold_nodes(
    *,
    request: CapacityRequest,
    organization: Organization,
    project: Project | None = None,
    name: str,
    actor: User | None,
    now: datetime,
    expires_at: datetime,
    kind: Lease.Kind | str = Lease.Kind.FIXED,
    ssh_keys: Sequence[SSHKey] = (),
    allowed_addresses: Sequence[str] = (),
    image: str = "",
    wait: bool = False,
) -> Lease:
    """Part: pick nodes, lock them and give them to a new held lease with its term.

    Call it inside a transaction that :func:`with_capacity` drives, after the wallet was
    locked, with a clean request, and pass on its ``wait``. Raises :class:`ShortPick`,
    upon which the transaction must roll back.
    """
    require_transaction()
    name = name.strip()
    if not name or len(name) > 80:
        raise InvalidInput(_("Give the lease a name of 1 to 80 characters."), field="name")
    if expires_at <= now:
        raise InvalidInput(_("The hold must end in the future."), field="expires_at")
    if project is not None and (project.organization_id != organization.pk or project.archived_at):
        raise InvalidInput(_("Choose a project of your organization that is not archived."), field="project")
    if any(key.organization_id != organization.pk for key in ssh_keys):
        raise InvalidInput(_("Choose SSH keys of your organization."), field="ssh_keys")
    addresses = clean_addresses(allowed_addresses)
    stack = stack_for(request.stack) if request.stack else None

    node_pks = _pick(request, now=now, wait=wait)
    lease = Lease(
        organization=organization,
        project=project,
        name=name,
        kind=kind,
        state_changed_at=now,
        deadline=expires_at,
        one_fabric=request.one_fabric and request.nodes > 1,
        image=image,
        stack=stack,
        allowed_addresses=addresses,
        created_by=actor,
        created_at=now,
    )
    given = picking.insert_lease(lease, request, node_pks=node_pks, now=now)
    if given < request.nodes:
        raise ShortPick
    if ssh_keys:
        lease.ssh_keys.set(ssh_keys)
    events.record(
        kind="lease.held",
        subject_type="lease",
        subject_id=lease.uid,
        organization=organization,
        actor=actor,
        now=now,
        after={"state": Lease.State.HELD.value, "deadline": expires_at.isoformat(), **request.as_dict()},
    )
    return lease


def _pick(request: CapacityRequest, *, now: datetime, wait: bool) -> list[int]:
    among = None
    if wait:
        among = picking.free(request, now=now, lock=True)
        if len(among) < request.nodes:
            raise ShortPick
    return picking.pick(request, now=now, among=among)


def confirm(
    lease: Lease,
    *,
    to: Lease.State | str,
    deadline: datetime | None = None,
    actor: User | None,
    now: datetime,
) -> Lease:
    """Part: turn the locked hold into a promise (``scheduled``), or wait for funds (``awaiting``).

    Also takes an awaiting lease to ``scheduled``. ``deadline`` (UTC) is when an awaiting
    lease lapses. Raises :class:`~leases.errors.HoldLapsed` when the hold has lapsed, and
    :class:`~portal.accounts.organizations.NotApproved` when the organization may not book.
    """
    lifecycle.check_not_lapsed(lease, now=now)
    if lease.state == Lease.State.HELD:
        check_may_book(lease.organization)
    return lifecycle.move(lease, to, actor=actor, now=now, deadline=deadline)


def release(lease: Lease, *, now: datetime) -> int:
    """Part: take all nodes from the locked lease, which never started; return how many."""
    return lifecycle.release(lease, now=now)


def clean_addresses(addresses: Sequence[str]) -> list[str]:
    """Return the networks (CIDR) that may reach SSH, each once; a bare address means itself.

    Raises :class:`InvalidInput` (field ``allowed_addresses``) naming the one that is not.
    """
    networks: list[str] = []
    for address in addresses:
        try:
            network = str(ipaddress.ip_network(address.strip(), strict=False))
        except ValueError:
            raise InvalidInput(
                _("“%(address)s” is not an address or network, for example 203.0.113.7 or 203.0.113.0/24.")
                % {"address": address[:60]},
                field="allowed_addresses",
            ) from None
        if network not in networks:
            networks.append(network)
    return networks
