"""How a person gets into a machine."""

from __future__ import annotations

import shlex

from leases.models import Access, Lease


def ssh_command(access: Access) -> str:
    """Return the command to type, e.g. ``ssh ubuntu@203.0.113.7`` or ``ssh -p 2222 ubuntu@…``.

    Addresses and names are quoted for a POSIX shell: they come from the provider.
    """
    host, _colon, port = access.endpoint.rpartition(":")
    target = f"{access.username}@{host.strip('[]')}" if access.username else host.strip("[]")
    words = ["ssh", *([] if port == "22" else ["-p", port]), target]
    return shlex.join(words)


def ssh_commands(lease: Lease) -> list[str]:
    """Return the commands for all machines of the lease that let the customer in now."""
    found = Access.objects.filter(lease=lease, kind=Access.Kind.SSH, revoked_at=None).order_by("pk")
    return [ssh_command(access) for access in found]
