"""A stateful fake of Nebius by gRPC on loopback: requests and answers are the official SDK's own messages."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import jwt
import pytest
from grpc import StatusCode
from nebius.api.google.protobuf import Any as Packed
from nebius.api.google.rpc import Status
from nebius.api.nebius.billing.v1alpha1 import (
    CostBreakdown,
    EstimateRequest,
    EstimateResponse,
    GeneralTotalCost,
    ListSpotPricesRequest,
    ListSpotPricesResponse,
    ResourceGroupCost,
    SpotPrice,
    SpotPriceComputeInstance,
    SpotPriceValue,
)
from nebius.api.nebius.capacity.v1 import (
    ComputeInstanceDetails,
    ListResourceAdviceRequest,
    ListResourceAdviceResponse,
    ResourceAdvice,
    ResourceAdviceSpec,
    ResourceAdviceStatus,
)
from nebius.api.nebius.common.v1 import (
    GetOperationRequest,
    NotEnoughResources,
    Operation,
    QuotaFailure,
    ResourceMetadata,
    ServiceError,
    TooManyRequests,
)
from nebius.api.nebius.compute.v1 import (
    CreateInstanceRequest,
    DeleteDiskRequest,
    DeleteInstanceRequest,
    Disk,
    DiskSpec,
    DiskStatus,
    Instance,
    InstanceSpec,
    InstanceStatus,
    IPAddressStatus,
    ListDisksRequest,
    ListDisksResponse,
    ListInstancesRequest,
    ListInstancesResponse,
    ListPlatformsRequest,
    ListPlatformsResponse,
    NetworkInterfaceStatus,
    Platform,
    PlatformSpec,
    PlatformStatus,
    Preset,
    PresetResources,
    PublicIPAddressStatus,
    ReservationPolicy,
    ResourcesSpec,
)
from nebius.api.nebius.iam.v1 import (
    Container,
    CreateTokenResponse,
    ExchangeTokenRequest,
    GetProjectRequest,
)
from nebius.api.nebius.vpc.v1 import (
    CreateSecurityGroupRequest,
    CreateSecurityRuleRequest,
    DeleteSecurityGroupRequest,
    DeleteSecurityRuleRequest,
    GetSubnetRequest,
    ListSecurityGroupsRequest,
    ListSecurityGroupsResponse,
    ListSecurityRulesRequest,
    ListSecurityRulesResponse,
    ListSubnetsRequest,
    ListSubnetsResponse,
    SecurityGroup,
    SecurityGroupSpec,
    SecurityRule,
    Subnet,
    SubnetSpec,
)
from nebius.base.options import INSECURE
from nebius.base.resolver import Constant
from nebius.sdk import SDK

from inventory.providers.nebius import session

TOKEN = "fake-nebius-token-81c7d2"
TENANT, PROJECT, BLOCK = "tenant-e00ours", "project-e00north", "capacityblockgroup-e00ours"
SUBNET, NETWORK = "vpcsubnet-e00one", "vpcnetwork-e00one"
REGION = "eu-north1"
CREATED = datetime(2026, 11, 1, 10, tzinfo=UTC)
PLATFORMS = {
    "cpu-e2": {"2vcpu-8gb": (2, 8, 0)},
    "gpu-h100-sxm": {"1gpu-16vcpu-200gb": (16, 200, 1), "8gpu-128vcpu-1600gb": (128, 1600, 8)},
    "gpu-l40s-d": {"1gpu-16vcpu-96gb": (16, 96, 1)},
}
MEMORY = {"gpu-h100-sxm": 80, "gpu-l40s-d": 48}
EXCHANGE = "TokenExchangeService/Exchange"
State = InstanceStatus.InstanceState
Told = ResourceAdviceStatus.Availability


def service_error(**detail: Any) -> ServiceError:
    return ServiceError(service="compute", code=next(iter(detail)), **detail)


def refusal(code: StatusCode, message: str, *errors: ServiceError) -> Status:
    packed = [
        Packed(type_url="type.googleapis.com/nebius.common.v1.ServiceError", value=error.SerializeToString())
        for error in errors
    ]
    return Status(code=code.value[0], message=message, details=packed)


REFUSALS: dict[str, tuple[StatusCode, Status]] = {
    name: (code, refusal(code, message, *errors))
    for name, code, message, errors in (
        (
            "no-capacity",
            StatusCode.RESOURCE_EXHAUSTED,
            "There are not enough resources for this instance.",
            [service_error(not_enough_resources=NotEnoughResources(
                violations=[NotEnoughResources.Violation(resource_type="gpu", requested="8")]
            ))],
        ),
        (
            "quota",
            StatusCode.RESOURCE_EXHAUSTED,
            "Quota exceeded.",
            [service_error(quota_failure=QuotaFailure(
                violations=[QuotaFailure.Violation(quota="compute.instance.gpu.h100", limit="0", requested="8")]
            ))],
        ),
        (
            "throttled",
            StatusCode.RESOURCE_EXHAUSTED,
            "Too many requests.",
            [service_error(too_many_requests=TooManyRequests(violation="per second"))],
        ),
        ("credentials", StatusCode.PERMISSION_DENIED, "Permission denied.", []),
        ("unauthenticated", StatusCode.UNAUTHENTICATED, "The token is not valid.", []),
        ("internal", StatusCode.INTERNAL, "Internal error.", []),
        ("silent", StatusCode.UNAVAILABLE, "Socket closed", []),
        ("missing", StatusCode.NOT_FOUND, "There is no such resource.", []),
        ("exists", StatusCode.ALREADY_EXISTS, "A resource of this name is there.", []),
        ("in-use", StatusCode.FAILED_PRECONDITION, "It is in use.", []),
    )
}  # fmt: skip


class Refused(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.code, self.status = REFUSALS[name]


@dataclass(frozen=True)
class Call:
    method: str  # InstanceService/Create
    request: Any
    metadata: Mapping[str, str]


@dataclass
class Fault:
    """What happens to the next ``times`` calls that match: a refusal, before or after the effect, or bytes."""

    matches: Callable[[str], bool]
    times: int = 1
    refuse: str = ""
    lose: str = ""
    payload: bytes | None = None
    hits: int = 0


class FakeNebius(grpc.GenericRpcHandler):
    """One project of one tenant. ``faults`` strike by the name of the method."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._routes: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
            "TokenExchangeService/Exchange": (ExchangeTokenRequest, self.exchange),
            "ProjectService/Get": (GetProjectRequest, self.get_project),
            "PlatformService/List": (ListPlatformsRequest, self.list_platforms),
            "CalculatorService/Estimate": (EstimateRequest, self.estimate),
            "SpotPriceService/List": (ListSpotPricesRequest, self.list_spot_prices),
            "ResourceAdviceService/List": (ListResourceAdviceRequest, self.list_advice),
            "InstanceService/Create": (CreateInstanceRequest, self.create_instance),
            "InstanceService/List": (ListInstancesRequest, self.list_instances),
            "InstanceService/Delete": (DeleteInstanceRequest, self.delete_instance),
            "OperationService/Get": (GetOperationRequest, self.get_operation),
            "DiskService/List": (ListDisksRequest, self.list_disks),
            "DiskService/Delete": (DeleteDiskRequest, self.delete_disk),
            "SubnetService/Get": (GetSubnetRequest, self.get_subnet),
            "SubnetService/List": (ListSubnetsRequest, self.list_subnets),
            "SecurityGroupService/List": (ListSecurityGroupsRequest, self.list_groups),
            "SecurityGroupService/Create": (CreateSecurityGroupRequest, self.create_group),
            "SecurityGroupService/Delete": (DeleteSecurityGroupRequest, self.delete_group),
            "SecurityRuleService/List": (ListSecurityRulesRequest, self.list_rules),
            "SecurityRuleService/Create": (CreateSecurityRuleRequest, self.create_rule),
            "SecurityRuleService/Delete": (DeleteSecurityRuleRequest, self.delete_rule),
        }
        self.reset()
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool)
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def reset(self) -> None:
        with self._lock:
            self.calls: list[Call] = []
            self.faults: list[Fault] = []
            self.numbers = itertools.count(1)
            self.page = 2
            self.repeats = False
            self.prices = {("gpu-h100-sxm", "8gpu-128vcpu-1600gb"): "23.600000001"}
            self.spot = {"gpu-h100-sxm": "1.25"}
            self.advice = [self.make_advice("gpu-h100-sxm", "8gpu-128vcpu-1600gb", 4)]
            self.instances: dict[str, Instance] = {}
            self.unlisted: set[str] | None = None  # while it is a set, new instances are not listed yet
            self.disks: dict[str, Disk] = {}
            self.groups: dict[str, SecurityGroup] = {}
            self.rules: dict[str, SecurityRule] = {}
            self.operations: dict[str, Operation] = {}
            self.key: Any = None  # the public key of the service account
            self.failing = ""  # the refusal with which the operation of the next launch ends at once

    def close(self) -> None:
        self._server.stop(0).wait(5)
        self._pool.shutdown()

    def connect(self, credentials: Any, domain: str) -> SDK:
        """Return an SDK that talks to this fake, without TLS; stands for ``session.connect``."""
        return SDK(
            credentials=credentials,
            resolver=Constant(self.address),
            options=[(INSECURE, True)],
            user_agent_prefix="sublet",
        )

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Have every adapter made within talk to this fake."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "connect", self.connect)
            yield

    # --- gRPC

    def plant(self, method: str, **what: Any) -> Fault:
        """Let a fault strike calls whose method begins so: ``InstanceService/Create``, or ``""`` for all."""
        fault = Fault(lambda name: name.startswith(method), **what)
        with self._lock:
            self.faults.append(fault)
        return fault

    def count(self, method: str) -> int:
        with self._lock:
            return sum(1 for call in self.calls if call.method == method)

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition(".")[2]
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata}
        return grpc.unary_unary_rpc_method_handler(
            lambda raw, context: self._answer(method, metadata, raw, context)
        )

    def _answer(self, method: str, metadata: dict[str, str], raw: bytes, context: Any) -> bytes:
        if method not in self._routes:
            context.abort(StatusCode.UNIMPLEMENTED, f"The fake has no {method}.")
        kind, handler = self._routes[method]
        with self._lock:
            request = kind.FromString(raw)
            self.calls.append(Call(method, request, metadata))
            fault = next((f for f in self.faults if f.hits < f.times and f.matches(method)), None)
            if fault is not None:
                fault.hits += 1
            try:
                if method != EXCHANGE and metadata.get("authorization") != f"Bearer {TOKEN}":
                    raise Refused("unauthenticated")
                if fault is not None and fault.refuse:
                    raise Refused(fault.refuse)
                answer: bytes = handler(request).SerializeToString()
                if fault is not None and fault.lose:
                    raise Refused(fault.lose)
                return fault.payload if fault is not None and fault.payload is not None else answer
            except Refused as refused:
                code, status = refused.code, refused.status
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, str(status.message))
        raise AssertionError("abort raises")

    def _paged(self, response: type[Any], items: list[Any], request: Any) -> Any:
        start = int(request.page_token or 0)
        more = start + self.page < len(items)
        token = str(start + self.page) if more else ""
        return response(items=items[start : start + self.page], next_page_token=token)

    def _identifier(self, kind: str) -> str:
        return f"{kind}-e00{next(self.numbers):012}"

    def _done(self, resource: str) -> Operation:
        operation = Operation(id=self._identifier("operation"), resource_id=resource)
        self.operations[str(operation.id)] = operation
        return operation

    def exchange(self, request: ExchangeTokenRequest) -> CreateTokenResponse:
        """Give a token to whoever signs as the service account."""
        try:
            jwt.decode(
                str(request.subject_token),
                self.key,
                algorithms=["RS256"],
                audience="token-service.iam.new.nebiuscloud.net",
            )
        except (jwt.PyJWTError, TypeError):
            raise Refused("unauthenticated") from None
        return CreateTokenResponse(access_token=TOKEN, token_type="Bearer", expires_in=43_200)

    # --- the catalog

    def get_project(self, request: GetProjectRequest) -> Container:
        if request.id != PROJECT:
            raise Refused("credentials")
        return Container(metadata=ResourceMetadata(id=PROJECT, parent_id=TENANT, name="resale"))

    def list_platforms(self, request: ListPlatformsRequest) -> ListPlatformsResponse:
        items = [
            Platform(
                metadata=ResourceMetadata(name=name, id=f"computeplatform-{name}"),
                spec=PlatformSpec(
                    presets=[
                        Preset(
                            name=preset,
                            resources=PresetResources(
                                vcpu_count=cpus, memory_gibibytes=memory, gpu_count=gpus
                            ),
                            allow_gpu_clustering=gpus == 8,
                        )
                        for preset, (cpus, memory, gpus) in presets.items()
                    ],
                    gpu_memory_gigabytes=MEMORY.get(name, 0),
                ),
                status=PlatformStatus(allowed_for_preemptibles=name == "gpu-h100-sxm"),
            )
            for name, presets in PLATFORMS.items()
        ]
        answer: ListPlatformsResponse = self._paged(ListPlatformsResponse, items, request)
        if self.repeats:
            answer.next_page_token = "0"
        return answer

    def estimate(self, request: EstimateRequest) -> EstimateResponse:
        wanted = request.resource_spec.compute_instance_spec
        assert wanted is not None
        resources = wanted.spec.resources
        cost = self.prices.get((resources.platform, resources.preset or ""), "2.95")
        total = GeneralTotalCost(total=CostBreakdown(cost=cost, cost_rounded="0.00"))
        return EstimateResponse(hourly_cost=ResourceGroupCost(general=total))

    def list_spot_prices(self, request: ListSpotPricesRequest) -> ListSpotPricesResponse:
        items = [
            SpotPrice(
                region=region,
                compute_instance=SpotPriceComputeInstance(platform=platform),
                price=SpotPriceValue(value=value, currency="usd", unit_title="GPU hour"),
            )
            for region in (REGION, "us-central1")
            for platform, value in self.spot.items()
        ]
        return self._paged(ListSpotPricesResponse, items, request)  # type: ignore[no-any-return]

    def make_advice(
        self,
        platform: str,
        preset: str,
        available: int,
        *,
        region: str = REGION,
        state: Any = Told.DataState.DATA_STATE_FRESH,
        level: Any = Told.AvailabilityLevel.AVAILABILITY_LEVEL_HIGH,
    ) -> ResourceAdvice:
        told = Told(data_state=state, available=available, availability_level=level, effective_at=CREATED)
        details = ComputeInstanceDetails(platform=platform, preset=ComputeInstanceDetails.Preset(name=preset))
        return ResourceAdvice(
            spec=ResourceAdviceSpec(region=region, fabric="fabric-2", compute_instance=details),
            status=ResourceAdviceStatus(on_demand=told, preemptible=told),
        )

    def list_advice(self, request: ListResourceAdviceRequest) -> ListResourceAdviceResponse:
        if request.parent_id != TENANT:
            raise Refused("credentials")
        return self._paged(ListResourceAdviceResponse, self.advice, request)  # type: ignore[no-any-return]

    # --- instances and disks

    def make_instance(self, metadata: ResourceMetadata, spec: InstanceSpec, state: Any) -> Instance:
        number = next(self.numbers)
        instance = Instance(
            metadata=ResourceMetadata(
                id=f"computeinstance-e00{number:012}",
                parent_id=PROJECT,
                name=metadata.name,
                labels=dict(metadata.labels),
                created_at=CREATED,
            ),
            spec=spec,
            status=InstanceStatus(
                state=state,
                network_interfaces=[
                    NetworkInterfaceStatus(
                        name="eth0",
                        ip_address=IPAddressStatus(address=f"10.0.0.{number % 250 + 1}/32"),
                        public_ip_address=PublicIPAddressStatus(address=f"203.0.113.{number % 250 + 1}/32"),
                    )
                ],
            ),
        )
        self.instances[str(instance.metadata.id)] = instance
        if self.unlisted is not None:
            self.unlisted.add(str(instance.metadata.id))
        return instance

    def make_disk(self, name: str, labels: Mapping[str, str], instance: str = "") -> Disk:
        id_ = self._identifier("computedisk")
        self.disks[id_] = Disk(
            metadata=ResourceMetadata(
                id=id_, parent_id=PROJECT, name=name, labels=dict(labels), created_at=CREATED
            ),
            spec=DiskSpec(size_gibibytes=200),
            status=DiskStatus(
                state=DiskStatus.State.READY, read_write_attachment=instance, managed_by=instance
            ),
        )
        return self.disks[id_]

    def create_instance(self, request: CreateInstanceRequest) -> Operation:
        metadata, spec = request.metadata, request.spec
        if metadata.parent_id != PROJECT or not spec.network_interfaces:
            raise Refused("missing")
        if spec.network_interfaces[0].subnet_id != SUBNET or spec.boot_disk.managed_disk is None:
            raise Refused("missing")
        if any(group.id not in self.groups for group in spec.network_interfaces[0].security_groups):
            raise Refused("missing")
        if any(item.metadata.name == metadata.name for item in self.instances.values()):
            raise Refused("exists")
        policy = spec.reservation_policy
        if policy.policy == ReservationPolicy.Policy.STRICT and list(policy.reservation_ids) != [BLOCK]:
            raise Refused("no-capacity")
        if self.failing:
            operation = self._done(self._identifier("computeinstance"))
            operation.status = REFUSALS[self.failing][1]
            self.failing = ""
            return Operation(id=operation.id, resource_id=operation.resource_id)
        instance = self.make_instance(metadata, spec, State.CREATING)
        disk = spec.boot_disk.managed_disk
        self.make_disk(str(disk.name), dict(disk.labels), str(instance.metadata.id))
        return self._done(str(instance.metadata.id))

    def get_operation(self, request: GetOperationRequest) -> Operation:
        return self.operations[str(request.id)]

    def list_instances(self, request: ListInstancesRequest) -> ListInstancesResponse:
        late = self.unlisted or set()
        items = [item for id_, item in self.instances.items() if id_ not in late]
        return self._paged(ListInstancesResponse, items, request)  # type: ignore[no-any-return]

    def delete_instance(self, request: DeleteInstanceRequest) -> Operation:
        if request.id not in self.instances:
            raise Refused("missing")
        self.instances[str(request.id)].status.state = State.DELETING
        return self._done(str(request.id))

    def end(self, instance: str) -> None:
        """End an instance with its managed disks."""
        del self.instances[instance]
        for id_, disk in list(self.disks.items()):
            if disk.status.managed_by == instance:
                del self.disks[id_]

    def list_disks(self, request: ListDisksRequest) -> ListDisksResponse:
        return self._paged(ListDisksResponse, list(self.disks.values()), request)  # type: ignore[no-any-return]

    def delete_disk(self, request: DeleteDiskRequest) -> Operation:
        if self.disks.pop(str(request.id), None) is None:
            raise Refused("missing")
        return self._done(str(request.id))

    # --- networks

    def subnet(self) -> Subnet:
        return Subnet(
            metadata=ResourceMetadata(id=SUBNET, parent_id=PROJECT), spec=SubnetSpec(network_id=NETWORK)
        )

    def get_subnet(self, request: GetSubnetRequest) -> Subnet:
        if request.id != SUBNET:
            raise Refused("missing")
        return self.subnet()

    def list_subnets(self, request: ListSubnetsRequest) -> ListSubnetsResponse:
        return ListSubnetsResponse(items=[self.subnet()])

    def make_group(self, name: str, labels: Mapping[str, str]) -> SecurityGroup:
        id_ = self._identifier("vpcsecuritygroup")
        self.groups[id_] = SecurityGroup(
            metadata=ResourceMetadata(id=id_, parent_id=PROJECT, name=name, labels=dict(labels)),
            spec=SecurityGroupSpec(network_id=NETWORK),
        )
        return self.groups[id_]

    def list_groups(self, request: ListSecurityGroupsRequest) -> ListSecurityGroupsResponse:
        return self._paged(  # type: ignore[no-any-return]
            ListSecurityGroupsResponse, list(self.groups.values()), request
        )

    def create_group(self, request: CreateSecurityGroupRequest) -> Operation:
        if request.spec.network_id != NETWORK:
            raise Refused("missing")
        made = self.make_group(str(request.metadata.name), dict(request.metadata.labels))
        return self._done(str(made.metadata.id))

    def delete_group(self, request: DeleteSecurityGroupRequest) -> Operation:
        id_ = str(request.id)
        if id_ not in self.groups:
            raise Refused("missing")
        used = [
            group.id
            for item in self.instances.values()
            for interface in item.spec.network_interfaces
            for group in interface.security_groups
        ]
        if id_ in used:
            raise Refused("in-use")
        del self.groups[id_]
        self.rules = {key: rule for key, rule in self.rules.items() if rule.metadata.parent_id != id_}
        return self._done(id_)

    def list_rules(self, request: ListSecurityRulesRequest) -> ListSecurityRulesResponse:
        if request.parent_id not in self.groups:
            raise Refused("missing")
        items = [rule for rule in self.rules.values() if rule.metadata.parent_id == request.parent_id]
        return self._paged(ListSecurityRulesResponse, items, request)  # type: ignore[no-any-return]

    def create_rule(self, request: CreateSecurityRuleRequest) -> Operation:
        if request.metadata.parent_id not in self.groups:
            raise Refused("missing")
        id_ = self._identifier("vpcsecurityrule")
        self.rules[id_] = SecurityRule(
            metadata=ResourceMetadata(id=id_, parent_id=request.metadata.parent_id), spec=request.spec
        )
        return self._done(id_)

    def delete_rule(self, request: DeleteSecurityRuleRequest) -> Operation:
        if self.rules.pop(str(request.id), None) is None:
            raise Refused("missing")
        return self._done(str(request.id))


def stranger_spec() -> InstanceSpec:
    return InstanceSpec(resources=ResourcesSpec(platform="gpu-h100-sxm", preset="8gpu-128vcpu-1600gb"))
