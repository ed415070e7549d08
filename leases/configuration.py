"""What a customer may change about a lease before its machines start: name, project, keys, software."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.utils.translation import gettext as _

from inventory.models import SoftwareStack
from leases.booking import clean_addresses
from leases.models import Lease
from leases.software import stacks_of
from portal.accounts import events
from portal.accounts.models import Organization, Project, SSHKey, User
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.transactions import durable, require_transaction

# Keys and the firewall are built into machines at their start; later changes would not reach them.
OPEN_STATES = (Lease.State.HELD, Lease.State.AWAITING, Lease.State.SCHEDULED)


class TooLate(Conflict):
    """The lease's machines have started, or it is over."""

    code = "lease-started"


def configure_lease(
    *,
    lease_uid: str,
    organization: Organization,
    actor: User | None,
    now: datetime,
    name: str,
    project: Project | None = None,
    ssh_keys: Sequence[SSHKey] = (),
    allowed_addresses: Iterable[str] = (),
    stack: SoftwareStack | None = None,
) -> Lease:
    """Public: change a lease that has not started. Locks the lease.

    Other software must have an image on every node that the lease has. Raises :class:`NotFound` for another organization's lease, :class:`InvalidInput`
    naming the field, and :class:`TooLate` once machines have started.
    """
    with durable():
        lease = (
            Lease.objects.select_for_update(no_key=True, of=("self",))
            .filter(uid=lease_uid, organization=organization)
            .first()
        )
        if lease is None:
            raise NotFound(_("There is no lease like that."))
        return configure(
            lease, actor=actor, now=now, name=name, project=project, ssh_keys=ssh_keys,
            allowed_addresses=allowed_addresses, stack=stack,
        )  # fmt: skip


def configure(
    lease: Lease,
    *,
    actor: User | None,
    now: datetime,
    name: str,
    project: Project | None = None,
    ssh_keys: Sequence[SSHKey] = (),
    allowed_addresses: Iterable[str] = (),
    stack: SoftwareStack | None = None,
) -> Lease:
    """Part: what :func:`configure_lease` does to a locked lease."""
    require_transaction()
    if lease.state not in OPEN_STATES:
        raise TooLate(_("Its machines have started, so this can no longer be changed."))
    name = " ".join(name.split())
    if not name or len(name) > 80:
        raise InvalidInput(_("Give the lease a name of 1 to 80 characters."), field="name")
    addresses = clean_addresses(list(allowed_addresses))
    if project is not None and project.organization_id != lease.organization_id:
        raise NotFound(_("There is no project like that."))
    if any(key.organization_id != lease.organization_id for key in ssh_keys):
        raise NotFound(_("There is no SSH key like that."))
    if stack not in (None, lease.stack) and stack not in stacks_of(lease):
        raise InvalidInput(
            _("Not every server of this lease can start with “%(stack)s”. Choose other software.")
            % {"stack": stack},
            field="stack",
        )
    before = {
        "name": lease.name,
        "project": lease.project.uid if lease.project else None,
        "allowed_addresses": lease.allowed_addresses,
        "stack": lease.stack.slug if lease.stack else None,
        "ssh_keys": sorted(lease.ssh_keys.values_list("uid", flat=True)),
    }
    after = {
        "name": name,
        "project": project.uid if project else None,
        "allowed_addresses": addresses,
        "stack": stack.slug if stack else None,
        "ssh_keys": sorted(key.uid for key in ssh_keys),
    }
    if before == after:
        return lease
    lease.name, lease.project, lease.allowed_addresses, lease.stack = name, project, addresses, stack
    lease.save(update_fields=["name", "project", "allowed_addresses", "stack"])
    lease.ssh_keys.set(ssh_keys)
    events.record(
        kind="lease.configured",
        subject_type="lease",
        subject_id=lease.uid,
        organization=lease.organization,
        actor=actor,
        now=now,
        before={key: value for key, value in before.items() if after[key] != value},
        after={key: value for key, value in after.items() if before[key] != value},
    )
    return lease
