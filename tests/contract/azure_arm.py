"""A stateful fake of Azure Resource Manager: the part that a GPU reseller needs, and retail prices.

Its documents have the fields of Microsoft's own recordings
(tests/inventory/test_azure_recorded.py compares them), and newer ones as the current API
describes them. Nothing of the adapter is imported here.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from tests.contract.fake_api import Call, FakeApi, Reply, route

SUBSCRIPTION = "8a6f2f1e-6f39-4c1b-9f0e-3c0c6f0d9b11"
GROUP = "sublet"
REGION = "eastus"
OTHER_REGION = "westeurope"
TYPE = "Standard_ND96isr_H100_v5"
RESERVATION = "h100-reserved"
PAGE = 2
STARTED = "2026-11-20T08:00:00.0000000+00:00"

SUB = "/subscriptions/{subscription}"
RG = SUB + "/resourceGroups/{group}"
COMPUTE = "/providers/Microsoft.Compute"
NET = "/providers/Microsoft.Network"

# name, family, GPUs, vCPUs, memory in GB, zones, spot
SIZES = (
    (TYPE, "standardNDSH100v5Family", "8", "96", "1900", ["1", "2"], "True"),
    ("Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", "1", "24", "220", ["1", "2", "3"], "True"),
    ("Standard_NC4as_T4_v3", "Standard NCASv3_T4 Family", "1", "4", "28", [], "False"),
    ("Standard_D2s_v5", "standardDSv5Family", "", "2", "8", ["1"], "True"),
)


class Arm(FakeApi):
    """``public_url`` is where the adapter reaches it, for links to further pages."""

    def __init__(self) -> None:
        super().__init__()
        self.public_url = self.url
        self.token = ""
        # By kind (``virtualMachines``) and name in lower case: the documents as Azure keeps them.
        self.resources: dict[tuple[str, str], dict[str, Any]] = {}
        self.ending: set[str] = set()  # machines whose deletion goes on
        self.hidden: set[str] = set()  # machines that listings do not show yet
        self.lag = False
        self.settled = True  # networks are ready when they are read again
        self.addresses = 0
        self.prices = {(TYPE, ""): 98.32, (TYPE, " Spot"): 39.33}
        self.prices |= {("Standard_NC24ads_A100_v4", ""): 3.673, ("Standard_NC24ads_A100_v4", " Spot"): 1.1}
        self.prices |= {("Standard_NC4as_T4_v3", ""): 0.526}
        self.limits = {family.lower(): 10_000 for _name, family, *_rest in SIZES} | {
            "lowprioritycores": 10_000
        }
        self.restrictions: dict[str, list[dict[str, Any]]] = {}
        self.reserved = 2
        # What the next machines become: an error code, found only in the instance view.
        self.doomed: list[tuple[str, str]] = []

    # --- rules of every call

    def authorize(self, call: Call) -> Reply | None:
        if call.path.startswith("/api/retail/"):
            return None
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if not call.query.get("api-version"):
            return error(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        if call.arguments.get("subscription") not in (None, SUBSCRIPTION):
            return error(404, "SubscriptionNotFound", "The subscription could not be found.")
        group = call.arguments.get("group")
        if group is not None and group.lower() != GROUP:
            return error(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        return None

    # --- the subscription

    @route("GET", RG)
    def get_group(self, call: Call) -> Reply:
        return Reply(
            {
                "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}",
                "name": GROUP,
                "type": "Microsoft.Resources/resourceGroups",
                "location": REGION,
                "properties": {"provisioningState": "Succeeded"},
            }
        )

    @route("GET", SUB + "/locations")
    def locations(self, call: Call) -> Reply:
        found = [
            {
                "id": f"/subscriptions/{SUBSCRIPTION}/locations/{name}",
                "name": name,
                "displayName": shown,
                "metadata": {"regionType": kind},
            }
            for name, shown, kind in (
                (REGION, "East US", "Physical"),
                (OTHER_REGION, "West Europe", "Physical"),
                ("europe", "Europe", "Logical"),
            )
        ]
        return Reply({"value": found})

    @route("GET", RG + "/resources")
    def all_resources(self, call: Call) -> Reply:
        found = [
            {key: item[key] for key in ("id", "name", "type", "location", "tags") if key in item}
            | {
                "createdTime": STARTED,
                "provisioningState": item.get("properties", {}).get("provisioningState", "Succeeded"),
            }
            for (_kind, name), item in self.resources.items()
            if name not in self.hidden
        ]
        return self.paged(call, found)

    def paged(self, call: Call, items: list[Any], size: int = PAGE) -> Reply:
        first = int(call.query.get("$skiptoken", ["0"])[0])
        document: dict[str, Any] = {"value": items[first : first + size]}
        if len(items) > first + size:
            query = f"api-version={call.query['api-version'][0]}&$skiptoken={first + size}"
            for name in ("$filter", "statusOnly", "$expand"):
                if name in call.query:
                    query += f"&{name}={call.query[name][0].replace(' ', '%20')}"
            document["nextLink"] = f"{self.public_url}{call.path}?{query}"
        return Reply(document)

    # --- the catalog

    @route("GET", SUB + COMPUTE + "/skus")
    def skus(self, call: Call) -> Reply:
        match = re.fullmatch(r"location eq '(\w+)'", call.query.get("$filter", [""])[0])
        region = match[1] if match else ""
        return self.paged(call, [self.sku(row) for row in SIZES] if region in (REGION, OTHER_REGION) else [])

    def sku(self, row: tuple[Any, ...]) -> dict[str, Any]:
        name, family, gpus, vcpus, memory, zones, spot = row
        capabilities = {
            "vCPUs": vcpus,
            "MemoryGB": memory,
            "LowPriorityCapable": spot,
            "RdmaEnabled": "False",
        }
        if gpus:
            capabilities |= {"GPUs": gpus, "CpuArchitectureType": "x64"}
        if name == TYPE:
            capabilities["RdmaEnabled"] = "True"
        return {
            "resourceType": "virtualMachines",
            "name": name,
            "tier": "Standard",
            "size": name.removeprefix("Standard_"),
            "family": family,
            "locations": [REGION],
            "locationInfo": [{"location": REGION, "zones": zones, "zoneDetails": []}],
            "capabilities": [{"name": key, "value": value} for key, value in capabilities.items()],
            "restrictions": self.restrictions.get(name, []),
        }

    @route("GET", SUB + COMPUTE + "/locations/{region}/usages")
    def usages(self, call: Call) -> Reply:
        found = [
            {
                "limit": limit,
                "unit": "Count",
                "currentValue": 0,
                "name": {"value": family, "localizedValue": family},
            }
            for family, limit in self.limits.items()
        ]
        return Reply({"value": found})

    @route("GET", "/api/retail/prices")
    def retail(self, call: Call) -> Reply:
        wanted = call.query["$filter"][0]
        rows = list(self.price_rows()) if f"armRegionName eq '{REGION}'" in wanted else []
        first, size = int(call.query.get("$skip", ["0"])[0]), 4
        link = None
        if len(rows) > first + size:
            escaped = wanted.replace(" ", "%20")
            link = f"{self.public_url}{call.path}?$filter={escaped}&$skip={first + size}"
        return Reply(
            {
                "BillingCurrency": "USD",
                "CustomerEntityId": "Default",
                "CustomerEntityType": "Retail",
                "Items": rows[first : first + size],
                "NextPageLink": link,
                "Count": len(rows[first : first + size]),
            }
        )

    def price_rows(self) -> Iterator[dict[str, Any]]:
        """Yield what a size really has: Linux, Windows, spot, low priority, and a yearly reservation."""
        for (name, suffix), price in self.prices.items():
            short = name.removeprefix("Standard_").replace("_", " ")
            yield price_row(name, f"{short}{suffix}", price)
            yield price_row(name, f"{short}{suffix}", price * 2, product="Virtual Machines N Series Windows")
            yield price_row(name, f"{short} Low Priority", price / 4)
            yield price_row(name, short, price * 5_000, type="Reservation")

    # --- reservations

    @route("GET", RG + COMPUTE + "/capacityReservationGroups/{name}/capacityReservations")
    def reservations(self, call: Call) -> Reply:
        if call.arguments["name"] != RESERVATION:
            return not_found(call)
        path = resource_id("capacityReservationGroups", RESERVATION)
        associated = [
            {"id": item["id"]}
            for (kind, _name), item in self.resources.items()
            if kind == "virtualmachines"
            and item["properties"]
            .get("capacityReservation", {})
            .get("capacityReservationGroup", {})
            .get("id")
            == path
        ]
        return Reply(
            {
                "value": [
                    {
                        "id": f"{path}/capacityReservations/h100",
                        "name": "h100",
                        "location": REGION,
                        "type": "Microsoft.Compute/capacityReservationGroups/capacityReservations",
                        "sku": {"name": TYPE, "capacity": self.reserved},
                        "zones": ["1"],
                        "properties": {
                            "provisioningState": "Succeeded",
                            "virtualMachinesAssociated": associated,
                        },
                    }
                ]
            }
        )

    # --- networks

    def put_network(self, call: Call, kind: str) -> Reply:
        name = call.arguments["name"]
        known = (kind.lower(), name.lower()) in self.resources
        item = self.keep(kind, name, call.body)
        if kind == "virtualNetworks":
            for subnet in item["properties"]["subnets"]:
                subnet["id"] = f"{item['id']}/subnets/{subnet['name']}"
        answer = {**item, "properties": {**item["properties"], "provisioningState": "Updating"}}
        return Reply(answer, 200 if known else 201, self.operation())

    @route("PUT", RG + NET + "/networkSecurityGroups/{name}")
    def put_firewall(self, call: Call) -> Reply:
        for rule in call.body["properties"]["securityRules"]:
            settings = rule["properties"]
            sources = settings.get("sourceAddressPrefixes", [])
            if any(":" in source for source in sources) and any("." in source for source in sources):
                return error(400, "SecurityRuleAddressPrefixesCannotMixIPVersions", "One kind per rule.")
            for member in settings.get("sourceApplicationSecurityGroups", []):
                if not self.at(member["id"]):
                    return missing(member["id"])
        return self.put_network(call, "networkSecurityGroups")

    @route("PUT", RG + NET + "/applicationSecurityGroups/{name}")
    def put_members(self, call: Call) -> Reply:
        return self.put_network(call, "applicationSecurityGroups")

    @route("PUT", RG + NET + "/virtualNetworks/{name}")
    def put_vnet(self, call: Call) -> Reply:
        return self.put_network(call, "virtualNetworks")

    @route("GET", RG + NET + "/{kind}")
    def list_network(self, call: Call) -> Reply:
        kind = call.arguments["kind"].lower()
        return self.paged(call, [item for (each, _name), item in self.resources.items() if each == kind])

    @route("GET", RG + NET + "/{kind}/{name}")
    def get_network(self, call: Call) -> Reply:
        item = self.resources.get((call.arguments["kind"].lower(), call.arguments["name"].lower()))
        if item is None:
            return not_found(call)
        if not self.settled:
            item = {**item, "properties": {**item["properties"], "provisioningState": "Updating"}}
        return Reply(self.expanded(item) if "$expand" in call.query else item)

    def expanded(self, interface: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {**interface, "properties": {**interface["properties"]}}
        configurations = []
        for each in interface["properties"].get("ipConfigurations", []):
            settings = dict(each["properties"])
            if "publicIPAddress" in settings:
                settings["publicIPAddress"] = self.at(settings["publicIPAddress"]["id"])
            configurations.append({**each, "properties": settings})
        shown["properties"]["ipConfigurations"] = configurations
        return shown

    @route("DELETE", RG + NET + "/{kind}/{name}")
    def delete_network(self, call: Call) -> Reply:
        kind, name = call.arguments["kind"].lower(), call.arguments["name"].lower()
        item = self.resources.get((kind, name))
        if item is None:
            return Reply(None, 204)
        used = {
            "networksecuritygroups": "InUseNetworkSecurityGroupCannotBeDeleted",
            "virtualnetworks": "InUseSubnetCannotBeDeleted",
            "applicationsecuritygroups": "ApplicationSecurityGroupInUse",
            "publicipaddresses": "PublicIPAddressCannotBeDeleted",
            "networkinterfaces": "NicInUse",
        }
        if any(item["id"].lower() in text for text in self.references(item)):
            return error(400, used[kind], f"{item['id']} is in use.")
        del self.resources[kind, name]
        return Reply(None, 202, self.operation())

    def references(self, of: dict[str, Any]) -> Iterator[str]:
        for item in self.resources.values():
            if item is not of and not item["id"].startswith(of["id"] + "/"):
                yield str(item["properties"]).lower()

    # --- disks

    @route("DELETE", RG + COMPUTE + "/disks/{name}")
    def delete_disk(self, call: Call) -> Reply:
        item = self.resources.get(("disks", call.arguments["name"].lower()))
        if item is None:
            return Reply(None, 204)
        if item.get("managedBy"):
            return error(409, "OperationNotAllowed", f"Disk {item['name']} is attached to a VM.")
        del self.resources["disks", call.arguments["name"].lower()]
        return Reply(None, 202, self.operation())

    # --- machines

    @route("GET", RG + COMPUTE + "/virtualMachines")
    def list_machines(self, call: Call) -> Reply:
        return self.paged(call, [model(item) for item in self.machines()])

    @route("GET", SUB + COMPUTE + "/virtualMachines")
    def list_all_machines(self, call: Call) -> Reply:
        if call.query.get("statusOnly") != ["true"]:
            return self.paged(call, [model(item) for item in self.machines()])
        shown = ("id", "name", "type", "location")
        found = [
            {key: item[key] for key in shown}
            | {"properties": {"instanceView": item["properties"]["instanceView"]}}
            for item in self.machines()
        ]
        return self.paged(call, found)

    def machines(self) -> list[dict[str, Any]]:
        return [
            item
            for (kind, name), item in self.resources.items()
            if kind == "virtualmachines" and name not in self.hidden
        ]

    @route("GET", RG + COMPUTE + "/virtualMachines/{name}")
    def get_machine(self, call: Call) -> Reply:
        item = self.resources.get(("virtualmachines", call.arguments["name"].lower()))
        if item is None:
            return not_found(call)
        return Reply(item if call.query.get("$expand") == ["instanceView"] else model(item))

    @route("PUT", RG + COMPUTE + "/virtualMachines/{name}")
    def put_machine(self, call: Call) -> Reply:
        name, body = call.arguments["name"], call.body
        if ("virtualmachines", name.lower()) in self.resources and call.headers.get("if-none-match") == "*":
            return error(412, "PreconditionFailed", "The resource exists already.")
        refused = self.refused(body)
        if refused is not None:
            return refused
        item = self.make_machine(name, body)
        if self.lag:
            self.hidden.add(name.lower())
        return Reply(model(item), 201, self.operation())

    def refused(self, body: Mapping[str, Any]) -> Reply | None:
        """Return the refusal of a document that Azure would not take."""
        settings = body["properties"]
        sizes = {row[0]: row for row in SIZES}
        size = settings["hardwareProfile"]["vmSize"]
        if size not in sizes:
            return error(400, "InvalidParameter", f"The value {size} provided for the VM size is not valid.")
        if any(zone not in sizes[size][5] for zone in body.get("zones", [])):
            return error(400, "InvalidAvailabilityZone", "The zone is not supported for this size.")
        login = settings["osProfile"]["linuxConfiguration"]
        if not login["disablePasswordAuthentication"] or not login["ssh"]["publicKeys"]:
            return error(400, "InvalidParameter", "Authentication by key needs a key.")
        network = settings["networkProfile"]
        if not network.get("networkApiVersion"):
            return error(400, "InvalidParameter", "Required parameter 'networkApiVersion' is missing.")
        for wanted in network["networkInterfaceConfigurations"]:
            inner = wanted["properties"]
            paths = [inner["networkSecurityGroup"]["id"]]
            for each in inner["ipConfigurations"]:
                paths += [item["id"] for item in each["properties"]["applicationSecurityGroups"]]
                paths.append(each["properties"]["subnet"]["id"].rpartition("/subnets/")[0])
            for path in paths:
                if not self.at(path):
                    return missing(path)
        return None

    def make_machine(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a machine that starts, with the disk, interface and address that it asked for."""
        body = copy.deepcopy(body)
        settings = {key: value for key, value in body["properties"].items() if key != "osProfile"}
        login = {
            key: value
            for key, value in body["properties"].get("osProfile", {}).items()
            if key in ("computerName", "adminUsername", "linuxConfiguration")
        }
        disk = settings["storageProfile"]["osDisk"]
        doom = self.doomed.pop(0) if self.doomed else None
        interfaces = [
            self.make_interface(name, wanted, body["location"])
            for wanted in settings["networkProfile"].get("networkInterfaceConfigurations", [])
        ]
        item = self.keep(
            "virtualMachines",
            name,
            {
                **body,
                "properties": {
                    **settings,
                    "vmId": str(uuid.uuid4()),
                    "storageProfile": {**settings["storageProfile"], "dataDisks": []},
                    "osProfile": {
                        **login,
                        "secrets": [],
                        "allowExtensionOperations": True,
                        "requireGuestProvisionSignal": True,
                    },
                    "networkProfile": {"networkInterfaces": interfaces},
                    "timeCreated": STARTED,
                },
            },
            provider="Microsoft.Compute",
        )
        item["properties"]["provisioningState"] = "Failed" if doom else "Creating"
        code = f"ProvisioningState/failed/{doom[0]}" if doom else "ProvisioningState/creating"
        provisioning = {"code": code, "level": "Error" if doom else "Info", "displayStatus": "Provisioning"}
        provisioning["time"] = STARTED
        if doom:
            provisioning["message"] = doom[1]
        power = {"code": "PowerState/deallocated" if doom else "PowerState/starting", "level": "Info"}
        power["displayStatus"] = "VM"
        item["properties"]["instanceView"] = {"disks": [], "statuses": [provisioning, power]}
        if disk.get("managedDisk"):
            disk["managedDisk"]["id"] = resource_id("disks", disk["name"])
            made = {"location": body["location"], "properties": {"diskState": "Attached"}}
            self.keep("disks", disk["name"], made, provider="Microsoft.Compute")["managedBy"] = item["id"]
        return item

    def make_interface(self, name: str, wanted: Mapping[str, Any], region: str) -> dict[str, Any]:
        self.addresses += 1
        configurations = []
        for each in wanted["properties"]["ipConfigurations"]:
            settings = {
                "privateIPAddress": f"10.0.0.{3 + self.addresses}",
                "privateIPAllocationMethod": "Dynamic",
                "subnet": each["properties"]["subnet"],
                "applicationSecurityGroups": each["properties"]["applicationSecurityGroups"],
                "primary": True,
                "privateIPAddressVersion": "IPv4",
            }
            if public := each["properties"].get("publicIPAddressConfiguration"):
                address = {
                    "location": region,
                    "tags": public.get("tags", {}),
                    "properties": {"ipAddress": f"198.51.100.{self.addresses}"},
                }
                kept = self.keep("publicIPAddresses", f"{public['name']}-4f1c0a2b", address)
                settings["publicIPAddress"] = {"id": kept["id"]}
            configurations.append({"name": each["name"], "properties": settings})
        document = {
            "location": region,
            "tags": wanted.get("tags", {}),
            "properties": {
                "ipConfigurations": configurations,
                "networkSecurityGroup": wanted["properties"]["networkSecurityGroup"],
            },
        }
        kept = self.keep("networkInterfaces", f"{wanted['name']}-4f1c0a2b", document)
        return {"id": kept["id"], "properties": {"primary": True, "deleteOption": "Delete"}}

    @route("DELETE", RG + COMPUTE + "/virtualMachines/{name}")
    def delete_machine(self, call: Call) -> Reply:
        name = call.arguments["name"].lower()
        item = self.resources.get(("virtualmachines", name))
        if item is None:
            return Reply(None, 204)
        self.ending.add(name)
        item["properties"]["provisioningState"] = "Deleting"
        return Reply(None, 202, self.operation())

    def remove_machine(self, name: str) -> None:
        """Let a machine be gone, with everything that goes with it."""
        item = self.resources.pop(("virtualmachines", name.lower()))
        for interface in item["properties"]["networkProfile"]["networkInterfaces"]:
            gone = self.at(interface["id"])
            del self.resources["networkinterfaces", gone["name"].lower()]
            for each in gone["properties"]["ipConfigurations"]:
                if address := each["properties"].get("publicIPAddress"):
                    del self.resources["publicipaddresses", self.at(address["id"])["name"].lower()]
        disk = item["properties"]["storageProfile"]["osDisk"]
        if disk.get("deleteOption") == "Delete":
            self.resources.pop(("disks", disk["name"].lower()), None)

    def finish_booting(self) -> None:
        for item in self.machines():
            settings = item["properties"]
            if settings["provisioningState"] != "Creating":
                continue
            settings["provisioningState"] = "Succeeded"
            settings["instanceView"] = running_view(settings["osProfile"].get("computerName", ""))

    def finish_ending(self) -> None:
        for name in self.ending:
            self.remove_machine(name)
        self.ending.clear()

    # --- helpers

    def keep(
        self, kind: str, name: str, body: Mapping[str, Any], provider: str = "Microsoft.Network"
    ) -> dict[str, Any]:
        item = {
            **body,
            "name": name,
            "id": resource_id(kind, name, provider),
            "type": f"{provider}/{kind}",
            "properties": {**body.get("properties", {}), "provisioningState": "Succeeded"},
        }
        if provider == "Microsoft.Network":
            item["etag"] = f'W/"{uuid.uuid4()}"'
        self.resources[kind.lower(), name.lower()] = item
        return item

    def at(self, path: str) -> dict[str, Any]:
        kind, name = path.lower().split("/")[-2:]
        return self.resources.get((kind, name), {})

    def operation(self) -> dict[str, str]:
        path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{REGION}/operations"
        return {"azure-asyncoperation": f"{self.public_url}{path}/{uuid.uuid4()}?api-version=2026-04-01"}


def resource_id(kind: str, name: str, provider: str = "") -> str:
    provider = provider or (
        "Microsoft.Compute"
        if kind in ("virtualMachines", "disks", "capacityReservationGroups")
        else "Microsoft.Network"
    )
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{provider}/{kind}/{name}"


def model(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine as it is shown without its instance view."""
    settings = {key: value for key, value in item["properties"].items() if key != "instanceView"}
    return {**item, "properties": settings}


def running_view(computer: str) -> dict[str, Any]:
    return {
        "computerName": computer,
        "osName": "ubuntu",
        "osVersion": "22.04",
        "vmAgent": {
            "vmAgentVersion": "2.9.1.1",
            "statuses": [
                {
                    "code": "ProvisioningState/succeeded",
                    "level": "Info",
                    "displayStatus": "Ready",
                    "message": "Guest Agent is running",
                    "time": STARTED,
                }
            ],
            "extensionHandlers": [],
        },
        "disks": [],
        "hyperVGeneration": "V2",
        "statuses": [
            {
                "code": "ProvisioningState/succeeded",
                "level": "Info",
                "displayStatus": "Provisioning succeeded",
                "time": STARTED,
            },
            {"code": "PowerState/running", "level": "Info", "displayStatus": "VM running"},
        ],
    }


def price_row(name: str, sku: str, price: float, **changed: Any) -> dict[str, Any]:
    """Return one row of the Retail Prices; ``changed`` are its fields, ``product`` is short for one."""
    product = changed.pop("product", "Virtual Machines N Series")
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0,
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": REGION,
        "location": "US East",
        "effectiveStartDate": "2026-06-01T00:00:00Z",
        "meterId": "001fa4dd-bbe2-5502-b172-8a1af70ea8b8",
        "meterName": sku,
        "productId": "DZH318Z08MC5",
        "skuId": "DZH318Z08MC5/0169",
        "productName": product,
        "skuName": sku,
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": name,
        **changed,
    }


def error(status: int, code: str, text: str, **headers: str) -> Reply:
    return Reply({"error": {"code": code, "message": text}}, status, headers)


def not_found(call: Call) -> Reply:
    return error(404, "ResourceNotFound", f"The Resource '{call.path}' was not found.")


def missing(path: str) -> Reply:
    return error(400, "InvalidResourceReference", f"Resource {path} was not found.")
