"""Causal convolution by FFT with zero padding, or by one inner product where a single output is wanted."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from archloom.kernels.arguments import accumulator


def long_convolution(x: Tensor, filter: Tensor, history: Tensor | None) -> Tensor:
    steps, length = x.shape[1], filter.shape[1]
    inputs = x
    if history is not None and length > 1:
        inputs = torch.cat([history[:, -(length - 1) :], x], 1)
    inputs = inputs.to(accumulator(x.dtype)).transpose(1, 2)  # [B, C, S]
    taps = filter[:, : inputs.shape[2]].to(inputs.dtype)
    out = _last(inputs, taps) if steps == 1 else _by_fft(inputs, taps, steps)
    return out.transpose(1, 2).to(x.dtype)


def _last(inputs: Tensor, taps: Tensor) -> Tensor:
    """The last output alone, [B, C, 1]: one inner product a channel."""
    recent = inputs[..., inputs.shape[-1] - taps.shape[1] :]
    return (recent * taps.flip(1)).sum(-1, keepdim=True)


def _by_fft(inputs: Tensor, taps: Tensor, steps: int) -> Tensor:
    """The last `steps` outputs. What wraps around falls on the outputs before them, which are dropped."""
    size = _fast_size(max(inputs.shape[2], steps + taps.shape[1] - 1))
    out: Tensor = _CircularConvolution.apply(inputs, taps, size)[0]  # type: ignore[no-untyped-call]
    return out[..., -steps:]


def _fast_size(least: int) -> int:
    """The smallest of 2^n and 3 * 2^n that is at least `least`."""
    power = 1 << (least - 1).bit_length()
    return power // 4 * 3 if power // 4 * 3 >= least and power >= 4 else power


class _CircularConvolution(torch.autograd.Function):
    """Circular convolution of [B, C, S] with [C, L] on `size` points, of which the first S are returned.

    Its own backward is three real transforms; that of `rfft` is a complex one of full length.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, taps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        spectrum, response = torch.fft.rfft(inputs, n=size), torch.fft.rfft(taps, n=size)
        return torch.fft.irfft(spectrum * response, n=size)[..., : inputs.shape[-1]], spectrum, response

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, ...]) -> None:
        _, spectrum, response = output
        ctx.mark_non_differentiable(spectrum, response)
        ctx.save_for_backward(spectrum, response)
        ctx.sizes = (inputs[0].shape[-1], inputs[1].shape[-1], inputs[2])  # type: ignore[attr-defined]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        spectrum, response = ctx.saved_tensors  # type: ignore[attr-defined]
        sources, length, size = ctx.sizes  # type: ignore[attr-defined]
        slope = torch.fft.rfft(grad, n=size)
        for_inputs = torch.fft.irfft(slope * response.conj(), n=size)[..., :sources]
        for_taps = torch.fft.irfft((slope * spectrum.conj()).sum(0), n=size)[..., :length]
        return for_inputs, for_taps, None
