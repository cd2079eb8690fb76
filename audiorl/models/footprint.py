"""What a model's weights take in memory, quantised or not."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from audiorl.models.forward import base_model


def footprint(model: nn.Module) -> str:
    """One line: how many parameters are trained, and how much memory all weights take."""
    trained, total = parameter_counts(model)
    base = base_model(model)
    bits = "8 bit" if getattr(base, "is_loaded_in_8bit", False) else "4 bit"
    quantised = f", linear layers in {bits}" if getattr(base, "is_quantized", False) else ""
    return (
        f"{type(base).__name__}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%}); the weights "
        f"take {weight_bytes(model) / 1e6:,.1f} MB{quantised}"
    )


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are; quantised ones count as what they stand for."""
    sizes = [(_true_size(p), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers and the scales that bitsandbytes keeps beside quantised weights."""
    stored = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        stored += _scales(module)
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def _scales(module: nn.Module) -> Iterator[Tensor]:
    weight = module._parameters.get("weight")
    # 8 bit: one for each row, with the weight until the first forward and with the module's state after it
    for holder in (weight, getattr(module, "state", None)):
        if isinstance(scales := getattr(holder, "SCB", None), Tensor):
            yield scales
    # 4 bit: one for each block, quantised once more with double quantisation
    state = getattr(weight, "quant_state", None)
    while state is not None:
        yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, Tensor))
        state = state.state2


def _true_size(parameter: Tensor) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
