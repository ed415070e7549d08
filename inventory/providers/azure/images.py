"""Images as Azure names them.

- ``Publisher:Offer:Sku:Version``, a URN of the marketplace, as ``az vm image list`` prints it
- ``Publisher:Offer:Sku:Version:plan``, one that is sold under a plan, whose terms the
  subscription has accepted
- ``/subscriptions/…/images/NAME`` or ``…/galleries/GALLERY/images/NAME/versions/VERSION``
- ``/SharedGalleries/…`` and ``/CommunityGalleries/…``
"""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.errors import ProviderError

LONGEST = 500
PLAN = "plan"


def reference(image: str) -> tuple[dict[str, str], dict[str, str] | None]:
    """Return an image's ``imageReference`` and, where it is sold under one, its ``plan``.

    Raises :class:`ProviderError` for anything that is no image's name at Azure.
    """
    parts = image.split(":")
    lower = image.lower()
    if len(image) > LONGEST or not image.isprintable():
        raise _no_image(image[:60])
    if lower.startswith("/sharedgalleries/"):
        return {"sharedGalleryImageId": image}, None
    if lower.startswith("/communitygalleries/"):
        return {"communityGalleryImageId": image}, None
    if lower.startswith("/subscriptions/") and "/providers/microsoft.compute/" in lower:
        return {"id": image}, None
    if len(parts) not in (4, 5) or not all(parts) or any(" " in part for part in parts):
        raise _no_image(image)
    publisher, offer, sku, version = parts[:4]
    urn = {"publisher": publisher, "offer": offer, "sku": sku, "version": version}
    if len(parts) == 4:
        return urn, None
    if parts[4] != PLAN:
        raise _no_image(image)
    return urn, {"publisher": publisher, "product": offer, "name": sku}


def _no_image(image: str) -> ProviderError:
    return ProviderError(
        _(
            "“%(image)s” is no image at Azure: write Publisher:Offer:Sku:Version, or the resource id of an image."
        )
        % {"image": image}
    )


def default(session: Any, region: str) -> str:
    """Return the account's image for a region."""
    image = str(session.by_region("image", region))
    if not image:
        raise ProviderError(
            _("No image for %(region)s: set “image” on the account, for example to an image’s URN.")
            % {"region": region}
        )
    return image
