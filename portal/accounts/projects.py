"""Projects: group leases and their spend inside one organization."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError
from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.models import Organization, Project, User
from portal.accounts.texts import clean_line
from portal.common.errors import Conflict
from portal.common.transactions import durable


class NameTaken(Conflict):
    """Another project of the organization has this name."""

    code = "name-taken"


def create_project(*, actor: User, organization: Organization, name: str, now: datetime) -> Project:
    """Create a project; needs ``manage``. Raises :class:`InvalidInput` and :class:`NameTaken`."""
    access.require(user=actor, organization=organization, permission="manage")
    name = clean_line(name, field="name", longest=80)
    try:
        with durable():
            project = Project.objects.create(organization=organization, name=name, created_at=now)
            _record("project.created", project, actor, now, {}, {"name": name})
    except IntegrityError as error:
        raise _taken(error, name) from None
    return project


def rename_project(*, actor: User, project: Project, name: str, now: datetime) -> Project:
    """Rename a project; needs ``manage``. Raises :class:`InvalidInput` and :class:`NameTaken`."""
    access.require(user=actor, organization=project.organization, permission="manage")
    name = clean_line(name, field="name", longest=80)
    try:
        with durable():
            locked = _lock(project)
            before = locked.name
            if before != name:
                locked.name = name
                locked.save(update_fields=["name"])
                _record("project.renamed", locked, actor, now, {"name": before}, {"name": name})
    except IntegrityError as error:
        raise _taken(error, name) from None
    return locked


def archive_project(*, actor: User, project: Project, now: datetime) -> Project:
    """Hide a project from new leases; what it groups stays. Needs ``manage``; twice is once."""
    return _set_archived(actor, project, now, now)


def restore_project(*, actor: User, project: Project, now: datetime) -> Project:
    """Offer an archived project again; needs ``manage``."""
    return _set_archived(actor, project, None, now)


def _set_archived(actor: User, project: Project, archived_at: datetime | None, now: datetime) -> Project:
    access.require(user=actor, organization=project.organization, permission="manage")
    with durable():
        locked = _lock(project)
        if (locked.archived_at is None) == (archived_at is None):
            return locked
        locked.archived_at = archived_at
        locked.save(update_fields=["archived_at"])
        kind = "project.restored" if archived_at is None else "project.archived"
        _record(kind, locked, actor, now, {}, {"name": locked.name})
    return locked


def _lock(project: Project) -> Project:
    return (
        Project.objects.select_for_update(no_key=True, of=("self",))
        .select_related("organization")
        .get(pk=project.pk)
    )


def _taken(error: IntegrityError, name: str) -> Exception:
    if "project_name_once_per_organization" not in str(error):
        return error
    return NameTaken(_("There is a project named %(name)s already. Choose another name.") % {"name": name})


def _record(
    kind: str, project: Project, actor: User, now: datetime, before: dict[str, str], after: dict[str, str]
) -> None:
    events.record(
        kind=kind,
        subject_type="project",
        subject_id=project.uid,
        organization=project.organization,
        actor=actor,
        now=now,
        before=before,
        after=after,
    )
