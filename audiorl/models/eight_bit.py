"""8-bit linear layers of bitsandbytes that compute the same in training and evaluation, without warnings.

bitsandbytes has two products. One also rounds the inputs to 8 bits, through float16, and warns at every call if they
are not float16. The other turns the weights back into floats. On a CPU, bitsandbytes uses the second in training mode
and the first in evaluation mode, so a policy would be scored by other numbers than it samples from. Here:

1. A CPU always uses the second, which is exact and faster.
2. Other devices always use the first, with the same kernels. The warning does not apply: the input keeps its type, and
   only the rounded copy is float16.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.autograd._functions import matmul
from bitsandbytes.nn.modules import Linear8bitLt
from torch import Tensor, nn


class EightBitLinear(Linear8bitLt):
    """A frozen 8-bit layer; see the module."""

    weight: Any  # bitsandbytes' own kind of parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) floats to (..., out) of the same type."""
        if self.weight.CB is not None:
            self.init_8bit_state()
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        if x.device.type in ("cpu", "xpu") or x.numel() == 0:
            self.state.is_training = True  # chooses the product, nothing else
            out = matmul(x, self.weight, bias=self.bias, state=self.state)
        else:
            out = RoundedProduct.apply(x, self.bias, self.state)
        self.weight.data = self.state.CB
        return out


class RoundedProduct(torch.autograd.Function):
    """Inputs rounded to 8 bits, row by row, times 8-bit weights; `MatMul8bitLt` of bitsandbytes for frozen weights.

    Columns of the inputs with a value beyond `state.threshold` are multiplied as floats.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        halves = rows.to(torch.float16)
        rounded, scales, outliers = functional.int8_vectorwise_quant(halves, threshold=state.threshold)
        kernels = torch.ops.bitsandbytes
        if state.threshold > 0:
            out, _ = kernels.int8_mixed_scaled_mm(rows, rounded, state.CB, scales, state.SCB, outliers, bias)
        else:
            out = kernels.int8_scaled_mm(rounded, state.CB, scales, state.SCB, bias=bias, dtype=x.dtype)
        ctx.state, ctx.dtype, ctx.has_bias = state, x.dtype, bias is not None
        return out.reshape(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        weight = ctx.state.CB.to(ctx.dtype) * (ctx.state.SCB / 127.0)[:, None].to(ctx.dtype)
        to_x = grad.to(ctx.dtype) @ weight if ctx.needs_input_grad[0] else None
        to_bias = grad.flatten(0, -2).sum(0) if ctx.has_bias and ctx.needs_input_grad[1] else None
        return to_x, to_bias, None


def use_eight_bit_linear(model: nn.Module) -> nn.Module:
    """Turn the model's frozen 8-bit layers into `EightBitLinear`, in place."""
    for module in model.modules():
        if type(module) is Linear8bitLt and not module.state.has_fp16_weights:
            module.__class__ = EightBitLinear
    return model
