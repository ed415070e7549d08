"""Who: people, organizations, what they may do, and the log of what was done."""

from portal.accounts.models.events import Event, Outbox, RequestKey
from portal.accounts.models.keys import ApiToken, SSHKey
from portal.accounts.models.organizations import (
    Invitation,
    Membership,
    Organization,
    OrganizationReview,
    Project,
)
from portal.accounts.models.users import User

__all__ = [
    "ApiToken",
    "Event",
    "Invitation",
    "Membership",
    "Organization",
    "OrganizationReview",
    "Outbox",
    "Project",
    "RequestKey",
    "SSHKey",
    "User",
]
