"""One launch: where the machines go, on which capacity, with which image and interfaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.utils.translation import gettext as _

from inventory.providers.aws.errors import before_the_call, translated
from inventory.providers.aws.session import AwsSession, tag_list
from inventory.providers.base import TAG_TOKEN, LaunchedInstance, LaunchGroup, PurchaseOption
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.fields import get

T = TypeVar("T")

TAGGED_AT_LAUNCH = ("instance", "volume", "network-interface")
TYPES, RESERVATIONS, RUN = "describe_instance_types", "describe_capacity_reservations", "run_instances"
CAPACITY_BLOCK = "capacity-block"
# The launch, so that it is looked for before it is called again; and what is read before it, since
# all of it must fit into the time of one claim (leases.provisioning.claims.CALL_TIME).
ONCE = 1


def launch(session: AwsSession, group: LaunchGroup) -> list[LaunchedInstance]:
    """Run the group's instances in one call that is never repeated here."""
    with before_the_call():
        parameters = launch_parameters(session, group)
    with translated(RUN):
        answer = session.ec2(group.region, attempts=ONCE).run_instances(**parameters)
    launched = [
        LaunchedInstance(
            id=get(item, "InstanceId", str, action=RUN),
            zone=get(item, "Placement.AvailabilityZone", str, action=RUN, default=""),
            raw_state=get(item, "State.Name", str, action=RUN, default=""),
        )
        for item in answer.get("Instances") or []
    ]
    if len(launched) != group.count:
        raise BadAnswer(
            _("run_instances: %(got)s of %(wanted)s instances in the answer.")
            % {"got": len(launched), "wanted": group.count}
        )
    return launched


def launch_parameters(session: AwsSession, group: LaunchGroup) -> dict[str, Any]:
    """Return the parameters of RunInstances.

    A reservation is targeted, and nothing else is allowed: EC2 then fails rather than
    buying on demand. Without one, preference *none* keeps an on-demand launch from
    using up capacity that is reserved for another lease.
    """
    all_tags = tag_list({**group.tags, TAG_TOKEN: group.client_token})
    parameters: dict[str, Any] = {
        "ImageId": image_id(session, group.region, group.image),
        "InstanceType": group.instance_type,
        "MinCount": group.count,
        "MaxCount": group.count,
        "ClientToken": group.client_token,
        "TagSpecifications": [{"ResourceType": kind, "Tags": all_tags} for kind in TAGGED_AT_LAUNCH],
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "none"},
        **_place(session, group),
    }
    if group.key_name:
        parameters["KeyName"] = group.key_name
    if data := user_data(group.ssh_public_keys, group.user_data):
        parameters["UserData"] = data
    if group.reservation_id:
        by_arn = group.reservation_id.startswith("arn:")
        name = "CapacityReservationResourceGroupArn" if by_arn else "CapacityReservationId"
        parameters["CapacityReservationSpecification"] = {
            "CapacityReservationTarget": {name: group.reservation_id}
        }
        if is_block(session, group.region, group.reservation_id):
            parameters["InstanceMarketOptions"] = {"MarketType": CAPACITY_BLOCK}
    elif group.purchase_option == PurchaseOption.SPOT:
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return parameters


def _place(session: AwsSession, group: LaunchGroup) -> dict[str, Any]:
    """Return zone, placement group, subnet and firewall, and the interfaces of a type with EFA."""
    placement = {"AvailabilityZone": group.zone} if group.zone else {}
    if name := session.by_zone("placement_groups", group.zone):
        placement["GroupName"] = name
    subnet = session.by_zone("subnets", group.zone)
    firewalls = [group.firewall_id] if group.firewall_id else []
    parameters: dict[str, Any] = {"Placement": placement} if placement else {}
    if interfaces := _interfaces(session, group):
        # Subnet and groups are then a matter of each interface.
        for interface in interfaces:
            interface.update({"SubnetId": subnet} if subnet else {})
            interface.update({"Groups": firewalls} if firewalls else {})
        parameters["NetworkInterfaces"] = interfaces
        return parameters
    if subnet:
        parameters["SubnetId"] = subnet
    if firewalls:
        parameters["SecurityGroupIds"] = firewalls
    return parameters


def _interfaces(session: AwsSession, group: LaunchGroup) -> list[dict[str, Any]]:
    """Return the network interfaces for EFA, or none for a type without it or with the setting off.

    The first card has the machine's address, the others carry EFA alone, at device index 1:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa-acc-inst-types.html
    EC2 gives a public address only to a machine with one interface.
    """
    mode = session.efa
    if mode == "none":
        return []
    kinds = _once(session, "cards", group.region, group.instance_type, _network_cards)
    if mode == "primary":
        kinds = kinds[:1]
    if not any("efa" in kind for kind in kinds):
        return []
    interfaces = []
    for card, kind in enumerate(kinds):
        wanted = "efa" if card == 0 else "efa-only"
        # The first card of some types (p6-b300) is for the address alone.
        if wanted in kind or card == 0:
            interfaces.append(
                {
                    "NetworkCardIndex": card,
                    "DeviceIndex": 0 if card == 0 else 1,
                    "InterfaceType": wanted if wanted in kind else "interface",
                    "DeleteOnTermination": True,
                }
            )
    return interfaces


def _network_cards(session: AwsSession, region: str, instance_type: str) -> list[list[str]]:
    """Return what interfaces each network card of a type takes, by the card's index."""
    found = session.pages(region, TYPES, "InstanceTypes", attempts=ONCE, InstanceTypes=[instance_type])
    for item in found:
        if not get(item, "NetworkInfo.EfaSupported", bool, action=TYPES, default=False):
            return []
        cards = get(item, "NetworkInfo.NetworkCards", list, action=TYPES, default=[])
        cards = sorted(cards, key=lambda card: get(card, "NetworkCardIndex", int, action=TYPES))
        return [get(card, "InterfaceTypes", list, action=TYPES, default=[]) for card in cards]
    return []


def is_block(session: AwsSession, region: str, reservation_id: str) -> bool:
    """Tell whether a reservation is a Capacity Block, whose launches name that market.

    A group of reservations (an ARN) is none: blocks are targeted one by one. What kind a
    reservation is never changes, so each is asked about once.
    """
    if reservation_id.startswith("arn:") or not session.buys:
        return False
    kind = _once(session, "reservation", region, reservation_id, _reservation_type)
    return kind == CAPACITY_BLOCK


def _reservation_type(session: AwsSession, region: str, reservation_id: str) -> str:
    found = session.pages(
        region, RESERVATIONS, "CapacityReservations", attempts=ONCE, CapacityReservationIds=[reservation_id]
    )
    for item in found:
        return get(item, "ReservationType", str, action=RESERVATIONS, default="default")
    raise ProviderError(
        _("%(region)s has no reservation %(id)s: check the commitment.")
        % {"region": region, "id": reservation_id}
    )


def _once(
    session: AwsSession, kind: str, region: str, name: str, read: Callable[[AwsSession, str, str], T]
) -> T:
    """Return what does not change while this adapter is used, read at its first need."""
    key = (kind, region, name)
    if key not in session.known:
        session.known[key] = read(session, region, name)
    found: T = session.known[key]
    return found


def image_id(session: AwsSession, region: str, image: str) -> str:
    """Return the AMI id of an image: one itself, or what an SSM parameter (``/…``, ``ssm:…``) holds now.

    Without an image, the account's own for the region, by id or by SSM parameter.
    """
    image = image or session.by_region("image", region)
    if image and not image.startswith(("/", "ssm:")):
        return image
    parameter = image.removeprefix("ssm:") or session.by_region("image_ssm_parameter", region)
    if not parameter:
        raise ProviderError(
            _("No image for %(region)s: set “image” or “image_ssm_parameter” on the account.")
            % {"region": region}
        )
    with translated("get_parameter"):
        answer = session.client("ssm", region, attempts=ONCE).get_parameter(Name=parameter)
    return str(answer["Parameter"]["Value"])
