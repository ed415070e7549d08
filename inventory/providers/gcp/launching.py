"""One launch: a machine with its disk and interface in one call, under a name of ours.

Google accepts the call as an operation and works on. What that fails with at once is
raised; a later failure is read by :func:`~inventory.providers.gcp.machines.describe`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import LaunchedInstance, LaunchGroup, PurchaseOption
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import NotSupported, ProviderError
from inventory.providers.gcp import marks, operations, reservations
from inventory.providers.gcp.errors import before_the_call
from inventory.providers.gcp.session import NAME, PROJECT, ZONE, GcpSession, in_region

USER = "ubuntu"
DISK_GIB = 100
DISK = "pd-balanced"
# These take no Persistent Disk: https://cloud.google.com/compute/docs/disks/hyperdisks
HYPERDISK, HYPERDISK_ONLY = "hyperdisk-balanced", ("a3-ultragpu-", "a4-", "a4x-", "g4-")
PROVISIONING = "PROVISIONING"

_IMAGE = re.compile(
    rf"(?:projects/{PROJECT.pattern}/)?global/images/(?:family/)?{NAME.pattern}"
    rf"|projects/{PROJECT.pattern}/(?:zones|locations)/[a-z0-9-]+/imageFamilyViews/{NAME.pattern}"
)
_ADDRESS = re.compile(r"https://(?:www|compute)\.googleapis\.com/compute/v1/")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def launch(session: GcpSession, group: LaunchGroup) -> list[LaunchedInstance]:
    """Insert one machine in one call that is never repeated here."""
    if group.count != 1:
        raise NotSupported(_("Google Cloud launches one machine per call here."))
    action = _("Launching a machine")
    with before_the_call():
        body = machine(session, group)
        request = marks.request_id(group.client_token, "launch")
    operation = session.write(
        "POST", f"zones/{group.zone}/instances", body, action=action, request_id=request
    )
    operations.watch(session, f"zones/{group.zone}", operation, action=action)
    return [
        LaunchedInstance(id=marks.id_of(group.zone, body["name"]), zone=group.zone, raw_state=PROVISIONING)
    ]


def machine(session: GcpSession, group: LaunchGroup) -> dict[str, Any]:
    """Return the document of a new machine; asks Google only about a reservation."""
    if not ZONE.fullmatch(group.zone) or not in_region(group.zone, group.region):
        raise ProviderError(
            _("“%(zone)s” is no zone of %(region)s: Google Cloud launches in a zone.")
            % {"zone": group.zone, "region": group.region}
        )
    if not NAME.fullmatch(group.instance_type):
        raise ProviderError(_("“%(type)s” is no machine type.") % {"type": group.instance_type[:60]})
    tags = marks.with_token(group.tags, group.client_token)
    name, labels = marks.machine_name(tags), naming.to_labels(tags)
    body: dict[str, Any] = {
        "name": name,
        "machineType": f"zones/{group.zone}/machineTypes/{group.instance_type}",
        "labels": labels,
        "metadata": {"items": _metadata(session, group)},
        "disks": [_disk(session, group, name, labels)],
        "networkInterfaces": [_interface(session, group.region)],
        **_capacity(session, group),
    }
    # No service account: what runs on a customer's machine must not be allowed anything here.
    if group.firewall_id:
        body["tags"] = {"items": [group.firewall_id]}
    return body


def _capacity(session: GcpSession, group: LaunchGroup) -> dict[str, Any]:
    """Return scheduling and reservation: the one that is named and no other, or none at all."""
    scheduling: dict[str, Any] = {
        # Machines with GPUs cannot be moved to another host.
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": True,
        "provisioningModel": "STANDARD",
    }
    if group.reservation_id:
        if reservations.ends_its_machines(session, group.reservation_id, group.zone):
            scheduling |= {"provisioningModel": "RESERVATION_BOUND", "instanceTerminationAction": "DELETE"}
        return {
            "scheduling": scheduling,
            "reservationAffinity": {
                "consumeReservationType": "SPECIFIC_RESERVATION",
                "key": "compute.googleapis.com/reservation-name",
                "values": [reservations.checked(group.reservation_id)],
            },
        }
    if group.purchase_option == PurchaseOption.SPOT:
        scheduling |= {
            "provisioningModel": "SPOT",
            "automaticRestart": False,
            "instanceTerminationAction": "DELETE",
        }
    return {"scheduling": scheduling, "reservationAffinity": {"consumeReservationType": "NO_RESERVATION"}}


def _metadata(session: GcpSession, group: LaunchGroup) -> list[dict[str, str]]:
    user = group.login_user or session.text("user") or USER
    if not _USER.fullmatch(user):
        raise ProviderError(_("“%(user)s” is no login of Linux.") % {"user": user[:40]})
    # Keys of the project and of OS Login would let others in.
    items = {"block-project-ssh-keys": "TRUE", "enable-oslogin": "FALSE"}
    keys = [key.strip() for key in group.ssh_public_keys]
    if any(not key.isprintable() for key in keys):
        raise ProviderError(_("An SSH key has a line break or a character that no key has."))
    if keys:
        items["ssh-keys"] = "\n".join(f"{user}:{key}" for key in keys)
    if data := user_data([], group.user_data):
        items["user-data"] = data
    return [{"key": key, "value": value} for key, value in items.items()]


def _disk(session: GcpSession, group: LaunchGroup, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    hyperdisk = group.instance_type.startswith(HYPERDISK_ONLY)
    kind = session.text("disk_type") or (HYPERDISK if hyperdisk else DISK)
    if not NAME.fullmatch(kind):
        raise ProviderError(_("The account setting “disk_type” must be a type such as “pd-ssd”."))
    return {
        "boot": True,
        "autoDelete": True,
        "initializeParams": {
            "diskName": name,
            "sourceImage": image(session, group),
            "diskSizeGb": str(session.number("disk_gib", DISK_GIB)),
            "diskType": f"zones/{group.zone}/diskTypes/{kind}",
            "labels": dict(labels),
        },
    }


def image(session: GcpSession, group: LaunchGroup) -> str:
    """Return the path of the image, or of the family whose newest image Google takes."""
    found = _ADDRESS.sub("", group.image or session.by_region("image", group.region))
    if not found:
        raise ProviderError(
            _("No image for %(region)s: set “image” on the account, for example to an image family’s path.")
            % {"region": group.region}
        )
    if not _IMAGE.fullmatch(found):
        raise ProviderError(
            _("“%(image)s” is no image at Google Cloud: write projects/P/global/images/family/NAME.")
            % {"image": found[:120]}
        )
    return found


def _interface(session: GcpSession, region: str) -> dict[str, Any]:
    project, name = session.network()
    found: dict[str, Any] = {"network": f"projects/{project}/global/networks/{name}", "nicType": "GVNIC"}
    if subnet := session.subnet(region):
        found["subnetwork"] = subnet
    if session.flag("public_ip") is not False:
        found["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    return found
