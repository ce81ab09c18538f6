"""The fields of a ScaledObject that ours has, as KEDA's documentation of 2.17 describes them.

KEDA drops a field that it does not know without a word, so a misspelt one must be found here. The KEDA of a cluster
knows all its fields: `kubectl apply --dry-run=server`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

#: The oldest KEDA that knows every field below: `fallback.behavior` came last.
OLDEST = "2.17"

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
#: KEDA takes these numbers as text.
Number = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Endpoint(Part):
    """The metadata of a trigger `metrics-api`."""

    url: Annotated[str, StringConstraints(pattern=r"^http://[a-z0-9.-]+:\d+/\w+$")]
    value_location: str
    target_value: Number


class Trigger(Part):
    type: Literal["metrics-api"]
    #: Variables of the formula are called so.
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_]\w*$")]
    metadata: Endpoint


class Fallback(Part):
    failure_threshold: Count
    replicas: Count
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Modifiers(Part):
    formula: str
    #: A whole number: otherwise KEDA takes the fallback for invalid.
    target: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*$")]
    activation_target: Number
    metric_type: Literal["AverageValue", "Value"]


class Policy(Part):
    type: Literal["Pods", "Percent"]
    value: Positive
    period_seconds: Annotated[int, Field(ge=1, le=1800)]


class Scaling(Part):
    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)]
    policies: list[Policy]


class Behavior(Part):
    scale_up: Scaling
    scale_down: Scaling


class Autoscaler(Part):
    behavior: Behavior


class Advanced(Part):
    scaling_modifiers: Modifiers
    horizontal_pod_autoscaler_config: Autoscaler


class Target(Part):
    name: Name


class Spec(Part):
    scale_target_ref: Target
    polling_interval: Positive
    cooldown_period: Positive
    min_replica_count: Count
    max_replica_count: Positive
    fallback: Fallback
    advanced: Advanced
    triggers: list[Trigger]


class Metadata(Part):
    name: Name


class ScaledObject(Part):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: Spec
