"""What a lease's machines start from: the image of its software on a node, as things are at the launch."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _

from inventory import software
from inventory.models import Node
from inventory.providers.errors import ProviderError
from leases.models import Lease


class NoImage(ProviderError):
    """The lease's software has no image for this node now. Another image is never taken instead."""


@dataclass(frozen=True)
class LaunchImage:
    """What the provider's call takes, and whom it lets in; empty: the provider account's own."""

    reference: str = ""
    login_user: str = ""


def image_for(*, lease: Lease, node: Node) -> LaunchImage:
    """Return the image to launch on a node for a lease.

    A lease without software keeps its own text, which may be empty. Raises
    :class:`NoImage`, which no retry heals, where staff have disabled or removed the
    image since the lease was promised.
    """
    if lease.stack is None:
        return LaunchImage(reference=lease.image)
    kind, region = node.instance_type, node.region
    image = software.image_for(stack=lease.stack, instance_type=kind, region=region)
    if image is None:
        raise NoImage(
            _(
                "“%(stack)s” has no enabled image for %(type)s in %(region)s (%(architecture)s): enable or add one under "
                "Software stacks, then launch again."
            )
            % {
                "stack": lease.stack,
                "type": kind,
                "region": region,
                "architecture": kind.get_architecture_display(),
            }
        )
    return LaunchImage(image.reference, image.login_user)
