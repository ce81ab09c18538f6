"""Products in float8 (e4m3): weights with a scale a row, inputs with a scale a token, sums in float32.

Each token is rounded by itself, so that a score does not depend on what else is in its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import linear, pad

from m3agiqa.errors import ConfigError

#: The largest number of float8 e4m3.
_LARGEST = 448.0
#: The oldest compute capability with float8: Ada Lovelace (L4, RTX 4090), before Hopper.
_CAPABILITY = (8, 9)


def check_device(device: torch.device) -> None:
    """Raises: ConfigError: this GPU has no float8."""
    found = torch.cuda.get_device_capability(device)
    if found < _CAPABILITY:
        raise ConfigError(
            f"precision float8 needs a GPU of compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]} or more; "
            f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}: leave `precision` out of the profile"
        )


@dataclass(frozen=True)
class Float8Weight:
    """A weight [out, in] in float8; sizes are multiples of 16 on a GPU."""

    values: torch.Tensor
    #: What each row is multiplied by, [out] float32.
    scales: torch.Tensor

    @classmethod
    def from_weight(cls, weight: torch.Tensor) -> Self:
        """Round a weight to float8, a scale a row."""
        return cls(*quantised(weight))

    def whole(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out, in] as `dtype` has it."""
        return (self.values.float() * self.scales[:, None]).to(dtype)

    def product(self, states: torch.Tensor) -> torch.Tensor:
        """`linear(states, weight)` for states [tokens, in]: [tokens, out] in their dtype."""
        if states.is_cuda:
            from m3agiqa.model.float8_kernels import product

            found: torch.Tensor = product(states, self.values, self.scales)
            return found
        values, scales = quantised(states)
        return linear((values.float() * scales[:, None]).to(states.dtype), self.whole(states.dtype))


def quantised(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, width] in float8, and what each is multiplied by to be itself again, [n] float32."""
    scales = tensor.abs().amax(dim=1).float().clamp(min=1e-12) / _LARGEST
    return (tensor.float() / scales[:, None]).to(torch.float8_e4m3fn), scales


def padded(weight: torch.Tensor) -> torch.Tensor:
    """A weight with rows of zeros behind its own, until they are as many as a GPU multiplies in float8."""
    return pad(weight, (0, 0, 0, -len(weight) % 16))


def product(states: torch.Tensor, weight: torch.Tensor | Float8Weight) -> torch.Tensor:
    """`linear(states, weight)` for states [tokens, in]."""
    return linear(states, weight) if isinstance(weight, torch.Tensor) else weight.product(states)
