"""The layers of the fused codec: NeMo's modules as the kernels read them, and their launches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime.engines.cuda import shared_memory
from runtime.engines.magpie.codec import SNAKE_EPS
from runtime.engines.magpie.kernels import convolution as kernels
from runtime.engines.magpie.tiles import stages_within

_CARRY = 2048  # numbers of state that a program moves at once
_MANY = 256  # programs, with which a GPU is busy


class Tile(NamedTuple):
    """A program's part of a matrix product, and how it is computed."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


def tile(columns: int, rows: int, adds: bool) -> Tile:
    """The tile for a product of so many columns and rows, to which a residual is added or not.

    Few, since each is compiled for every layer; the fastest of twenty on an H100, or near it.
    """
    if columns > 256 and rows <= 64:
        return Tile(16, 32, 128, 4, 4)
    if rows <= (256 if columns > 256 else 512 if columns > 128 else 2048):
        return Tile(64, 64, 64, 4, 5)
    if 128 < columns <= 256 and rows >= 8192 and not adds:
        return Tile(128, 256, 64, 8, 3)
    return Tile(64, 128, 64, 4, 3)


def fold(width: int) -> int:
    """How many outputs are columns of one product, in a layer of so many channels."""
    return max(1, 128 // width)


class Run(NamedTuple):
    """What all launches of a step share: the state of all slots, and each row's slot."""

    state: Tensor
    slots: Tensor
    rows: int


class Layer(ABC):
    """One launch: reads a buffer of ``paths`` signals with their past, writes the next one.

    Attributes:
        width: Channels of what it reads, padded.
        lengths: How many samples of each path's past it reads, and keeps.
        places: Where in a slot's state they are.
    """

    def __init__(self, width: int, lengths: Sequence[int]) -> None:
        self.width, self.lengths = width, tuple(lengths)
        self.places: tuple[int, ...] = ()

    @property
    def past(self) -> int:
        """How many samples lie before the new ones, in the buffer that it reads."""
        return max(self.lengths, default=0)

    def keep(self, place: int) -> int:
        """Keep a slot's past from ``place`` on; give where it ends."""
        places = []
        for length in self.lengths:
            places.append(place)
            place += length * self.width
        self.places = tuple(places)
        return place

    def link(self, following: Layer | None, device: torch.device, dtype: torch.dtype) -> None:
        """Bring all to the device; ``following`` reads what this one writes."""
        self._shared = shared_memory(device)
        self.after = following.past if following else 0
        begins = self._matrices(device, dtype)
        table = [
            (*weights, length, place // 8)
            for weights, length, place in zip(begins, self.lengths, self.places, strict=True)
        ]
        after = following.lengths if following else ()
        after_places = following.places if following else ()
        paths = max(len(table), len(after))
        rows = [
            [*(table[path] if path < len(table) else (0, 0, 0, 0))]
            + ([after[path], after_places[path] // 8] if path < len(after) else [0, 0])
            for path in range(paths)
        ]
        self._table = torch.tensor(rows, dtype=torch.int32, device=device)
        longest = max(self.past * self.width, following.past * following.width if following else 0)
        self._parts = min(4, -(-longest // (2 * _CARRY)))
        self._carriers = paths * self._parts

    @abstractmethod
    def _matrices(self, device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        """Bring the weights to the device; for each path, its taps and where they begin."""

    def _carrying(self, run: Run) -> tuple[Any, ...]:
        return self._table, self._parts, run.state, run.state.shape[1], run.slots, run.rows


class Begin(Layer):
    """Codes to vectors."""

    def __init__(self, vectors: Tensor) -> None:
        """``vectors``: shape ``(codebooks, size, depth)``, float32."""
        super().__init__(_padded(vectors.shape[0] * vectors.shape[2]), ())
        self._vectors = vectors

    def __call__(self, run: Run, codes: Tensor, out: Tensor) -> None:
        """Write what ``codes`` of shape ``(rows, codebooks, frames)`` stand for."""
        books, size, depth = self._vectors.shape
        kernels.begin[(run.rows * (1 + self._carriers),)](
            codes, self._vectors, out, *self._carrying(run), codes.shape[-1], self.after,
            BOOKS=books, SIZE=size, DEPTH=depth, WIDTH=self.width,
            CARRY=_CARRY,
        )  # fmt: skip

    def _matrices(self, device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        self._vectors = self._vectors.to(device).contiguous()
        return []


class Convolution(Layer):
    """Parallel convolutions of the same channels and dilation, and of any kernel sizes."""

    def __init__(
        self,
        modules: Sequence[Any],
        activations: Sequence[Any] | None,
        *,
        raw: bool = False,
        adds: bool = False,
    ) -> None:
        """Take NeMo's modules, one for each path.

        Args:
            modules: The convolutions.
            activations: After them; None if nothing is activated.
            raw: Give what is not activated too.
            adds: Add a residual.
        """
        convs = [module.conv for module in modules]
        self._dilation = convs[0].dilation[0]
        self._taps = [conv.kernel_size[0] for conv in convs]
        super().__init__(
            _padded(convs[0].in_channels), [(taps - 1) * self._dilation for taps in self._taps]
        )
        for conv in convs:
            same = (conv.in_channels, conv.out_channels, conv.dilation, conv.groups, conv.stride)
            if same != (convs[0].in_channels, convs[0].out_channels, convs[0].dilation, 1, (1,)):
                raise TypeError(f"Parallel convolutions differ, or have groups: {convs}.")
        self._channels = convs[0].out_channels
        self._out = _padded(self._channels)
        self._fold = fold(self._out)
        self._weights = [conv.weight.detach().float() for conv in convs]
        self._biases = torch.stack([conv.bias.detach().float() for conv in convs])
        self._alphas = None if activations is None else _alphas(activations, self._out)
        self._raw, self._adds = raw, adds
        self.raw_past = 0

    def buffer(self, rows: int, times: int) -> int:
        """How many numbers the largest buffer holds that it reads or writes."""
        paths = len(self._taps)
        after = max(self.after, self.raw_past)
        return paths * rows * max((self.past + times) * self.width, (after + times) * self._out)

    def __call__(
        self,
        run: Run,
        times: int,
        source: Tensor,
        *,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> None:
        """Continue the signals in ``source`` by ``times`` samples.

        Without a past before it, ``residual`` is one for all paths.
        """
        width, columns = self._out, self._fold * self._out
        per_row = -(-times // (self._fold * self._dilation)) * self._dilation
        block = tile(columns, run.rows * per_row, self._adds)
        tiles = -(-run.rows * per_row // block.rows) * -(-columns // block.columns)
        piece = 2 * (block.rows + block.columns) * block.inner  # half precision
        paths = len(self._taps)
        shared = residual is not raw
        kernels.convolve[(paths * tiles + run.rows * self._carriers,)](
            source,
            source if residual is None else residual,
            source if raw is None else raw,
            source if activated is None else activated,
            activated if self._alphas is not None else raw,
            self._matrix,
            self._bias,
            self._bias if self._alphas is None else self._alphas,
            *self._carrying(run),
            times,
            self._dilation,
            self.past,
            0 if shared else self.raw_past,
            int(shared),
            self.raw_past,
            self.after,
            int(self._alphas is not None),
            PATHS=paths,
            SOURCE_WIDTH=self.width,
            WIDTH=width,
            SNAKED=self._channels // 2,
            FOLD=self._fold,
            COLUMNS=self._matrix.shape[1],
            RESIDUAL=self._adds,
            RAW=self._raw,
            BLOCK_M=block.rows,
            BLOCK_N=block.columns,
            BLOCK_K=block.inner,
            CARRY=_CARRY,
            num_warps=block.warps,
            num_stages=stages_within(block.stages, piece, self._shared),
        )

    def _matrices(self, device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        if self._alphas is None:
            self.raw_past = self.after
        else:
            self._alphas = self._alphas.to(device)
        width = self._fold * self._out
        columns = _whole(width, 128 if width <= 128 else 256)  # whole tiles
        begins, rows = [], 0
        for taps in self._taps:
            begins.append((taps, rows * columns // 16))
            rows += _whole((taps + self._fold - 1) * self.width, 128)
        matrix = torch.zeros(rows, columns, device=device, dtype=dtype)
        bias = torch.zeros(len(self._taps), columns, device=device)
        for path, (weight, (taps, begin)) in enumerate(zip(self._weights, begins, strict=True)):
            out, inner, _ = weight.shape
            turned = weight.permute(2, 1, 0).to(device, dtype)  # taps, from, to
            row = begin * 16 // columns
            for later in range(self._fold):
                at, column = row + later * self.width, later * self._out
                for tap in range(taps):
                    matrix[at : at + inner, column : column + out] = turned[tap]
                    at += self.width
                bias[path, column : column + out] = self._biases[path].to(device)
        self._matrix, self._bias = matrix, bias
        self._weights = []  # of the model
        return begins


class Upsampling(Layer):
    """The mean of parallel signals, activated, each two channels to one of a higher rate."""

    def __init__(
        self, module: Any, activation: Any, paths: int, activations: Sequence[Any]
    ) -> None:
        """Take NeMo's modules.

        Args:
            module: The transposed convolution.
            activation: Before it.
            paths: How many signals there are before it.
            activations: After it, one for each parallel path that follows.
        """
        conv = module.conv
        self.rate: int = conv.stride[0]
        self._channels = conv.out_channels
        known = (2 * self._channels, 2 * self.rate, self._channels)
        if (conv.in_channels, conv.kernel_size[0], conv.groups) != known:
            raise TypeError(f"A transposed convolution of two channels to one is known: {conv}.")
        super().__init__(_padded(conv.in_channels), [1] * paths)
        self._out = _padded(self._channels)
        self._before = _alphas([activation], self.width)
        self._alphas = _alphas(activations, self._out)
        # (2 channels, now and before, phase, channel out)
        weight = conv.weight.detach().float().reshape(self._channels, 2, 2, self.rate)
        self._weight = torch.zeros(4, self.rate, self._out, device=weight.device)
        self._weight[..., : self._channels] = weight.permute(1, 2, 3, 0).flatten(0, 1)
        self._bias = torch.zeros(self._out, device=weight.device)
        self._bias[: self._channels] = conv.bias.detach().float()

    def count(self, rows: int, times: int) -> int:
        """How many numbers it makes of so many samples of the lower rate."""
        return rows * times * self.rate * self._out

    def __call__(
        self, run: Run, times: int, source: Tensor, *, raw: Tensor, activated: Tensor
    ) -> None:
        """Continue the signals in ``source`` by ``times`` samples of the lower rate."""
        block_t, block_c = 16, min(64, _power(self._out))
        tiles = run.rows * -(-times // block_t) * -(-self._out // block_c)
        phases = self.rate if tiles > _MANY else 1
        tiles *= self.rate // phases
        kernels.upsample[(tiles + run.rows * self._carriers,)](
            source, raw, activated, self._weight, self._bias, self._before, self._alphas,
            *self._carrying(run), times, self.past, self.after, phases,
            SOURCE_PATHS=len(self.lengths), SOURCE_WIDTH=self.width,
            SOURCE_SNAKED=self._channels, PATHS=len(self._alphas), WIDTH=self._out,
            SNAKED=self._channels // 2, RATE=self.rate,
            BLOCK_T=block_t, BLOCK_C=block_c, CARRY=_CARRY,
        )  # fmt: skip

    def _matrices(self, device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        self._weight, self._bias = self._weight.to(device), self._bias.to(device)
        self._before, self._alphas = self._before.to(device), self._alphas.to(device)
        return [(0, 0) for _ in self.lengths]


class Finish(Layer):
    """The mean of parallel signals, activated, through the last convolution: audio."""

    def __init__(self, module: Any, activation: Any, paths: int, squash: Any) -> None:
        """Take NeMo's modules: the convolution, what activates before it, and what after."""
        conv = module.conv
        self._taps = conv.kernel_size[0]
        if (conv.out_channels, conv.dilation, conv.groups) != (1, (1,), 1):
            raise TypeError(f"A last convolution to one channel is known: {conv}.")
        super().__init__(_padded(conv.in_channels), [self._taps - 1] * paths)
        self._channels = conv.in_channels
        self._alphas = _alphas([activation], self.width)
        self._clamps = type(squash).__name__ == "ClampActivation"
        weight = conv.weight.detach().float()
        self._weight = torch.zeros(self._taps, self.width, device=weight.device)
        self._weight[:, : self._channels] = weight[0].T
        self._bias = conv.bias.detach().float()

    def __call__(self, run: Run, times: int, source: Tensor) -> Tensor:
        """Give audio of shape ``(rows, times)``, float32, from the signals in ``source``."""
        audio = torch.empty(run.rows, times, device=source.device)
        block = 64
        tiles = run.rows * -(-times // block)
        kernels.finish[(tiles + run.rows * self._carriers,)](
            source, audio, self._weight, self._bias, self._alphas,
            *self._carrying(run), times, self.past,
            PATHS=len(self.lengths), WIDTH=self.width, SNAKED=self._channels // 2,
            TAPS=self._taps, CLAMP=self._clamps, BLOCK_T=block, BLOCK_C=_power(self.width),
            CARRY=_CARRY,
        )  # fmt: skip
        return audio

    def _matrices(self, device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        self._weight, self._bias = self._weight.to(device), self._bias.to(device)
        self._alphas = self._alphas.to(device)
        return [(self._taps, 0) for _ in self.lengths]


def _alphas(activations: Sequence[Any], width: int) -> Tensor:
    """Alphas over pi and their inverses of half snakes, ``(paths, 2, width)``, float32."""
    alphas = []
    for activation in activations:
        kind = type(activation.activation).__name__
        if kind != "HalfSnake":
            raise TypeError(f"The codec activates with {kind}; HalfSnake is known.")
        alpha = activation.activation.snake_act.alpha.detach().float().flatten()
        both = torch.ones(2, width, device=alpha.device)
        both[:, : len(alpha)] = torch.stack([alpha / math.pi, 1.0 / (alpha + SNAKE_EPS)])
        alphas.append(both)
    return torch.stack(alphas)


def _whole(number: int, of: int) -> int:
    """Rounded up to a multiple."""
    return number + -number % of


def _padded(channels: int) -> int:
    return _whole(channels, 8)  # 16 bytes, which are read at once


def _power(number: int) -> int:
    """Rounded up to a power of two."""
    return 1 << (number - 1).bit_length()
