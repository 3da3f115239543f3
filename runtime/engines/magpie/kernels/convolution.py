"""Causal convolutions of many streams, with all that surrounds them in one launch.

Activations lie channels last, with their past before them: ``(paths, rows, past + times,
channels)``, so that a tap is an offset in memory, and a convolution a matrix product whose
left side overlaps itself. A launch computes all parallel paths of a layer (they differ in
kernel size), adds bias and residual, and writes what the next layer reads: already activated,
and before it that layer's own past out of the streams' state. Some programs of each launch do
that carrying of state; nobody else reads in that launch what they write.

Tiles read past their convolution's taps, and past the end of a row, and meet zero weights there.
For zero weights to silence what is read, all of it must be finite: numbers saturate instead of
overflowing, and where nothing is written otherwise, zeros are.
"""

import triton
import triton.language as tl

SLACK: tl.constexpr = tl.constexpr(8192)  # numbers after a buffer that its readers may touch
_LARGEST: tl.constexpr = tl.constexpr(65504.0)  # of float16
_SLOPE: tl.constexpr = tl.constexpr(0.01)  # of leaky ReLU
# Added to a number below 2 ** 22 and taken away again, it leaves the nearest whole number.
_ROUNDER: tl.constexpr = tl.constexpr(12582912.0)

# Values that kernels are not compiled anew for.
_VARIES = ["rows", "parts", "times", "frames", "dilation", "past", "source_past", "raw_past"]
_VARIES += ["activated_past", "following_past", "residual_past", "residual_shared", "activates"]
_VARIES += ["phases"]


@triton.jit  # type: ignore[untyped-decorator]
def _activate(x, parameters, channel, inside, SNAKED: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Half snake over the last axis: ``x + sin(alpha x) ** 2 / alpha``, or leaky ReLU.

    ``parameters`` is ``(2, WIDTH)``: each alpha over pi, and its inverse. The square of a sine
    has a period of pi. On half of one to each side of zero, a polynomial in the square of the
    number of periods is within 6e-9 of it.
    """
    periods = x * tl.load(parameters + channel, mask=inside, other=1.0)[None, :]
    periods -= (periods + _ROUNDER) - _ROUNDER
    square = periods * periods
    sine = -3.2729457 * square + 12.99073
    sine = sine * square - 30.085953
    sine = sine * square + 42.725385
    sine = sine * square - 32.469581
    sine = (sine * square + 9.8696029) * square
    snake = x + sine * tl.load(parameters + WIDTH + channel, mask=inside, other=1.0)[None, :]
    return tl.where((channel < SNAKED)[None, :], snake, tl.maximum(x, x * _SLOPE))


@triton.jit
def _stored(x, like):  # type: ignore[no-untyped-def]
    """In the type that the buffer ``like`` holds, saturated."""
    return tl.clamp(x, -_LARGEST, _LARGEST).to(like.dtype.element_ty)


@triton.jit  # type: ignore[untyped-decorator]
def _copy(source, target, count, part, parts, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    for start in range(part * BLOCK, count, parts * BLOCK):
        at = start + tl.arange(0, BLOCK)
        tl.store(target + at, tl.load(source + at, mask=at < count), mask=at < count)


@triton.jit  # type: ignore[untyped-decorator]
def _clear(target, count, part, parts, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    for start in range(part * BLOCK, count, parts * BLOCK):
        at = start + tl.arange(0, BLOCK)
        tl.store(target + at, tl.zeros([BLOCK], target.dtype.element_ty), mask=at < count)


@triton.jit  # type: ignore[untyped-decorator]
def _carry(  # type: ignore[no-untyped-def]
    program, parts, state, state_size, slots, table, rows,
    source, source_past, source_times, following, following_past, following_times,
    SOURCE_PATHS: tl.constexpr, SOURCE_WIDTH: tl.constexpr,
    FOLLOWING_PATHS: tl.constexpr, FOLLOWING_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep the end of what this layer reads, and put the past before what it writes.

    ``table`` has a row of six for each path: taps, where its weights begin, how many times it
    keeps and where, and the same two of the layer that follows.
    """
    part = program % parts
    row = (program // parts) % rows
    path = program // (parts * rows)
    kept = state + tl.load(slots + row) * state_size
    entry = table + path * 6
    if path < SOURCE_PATHS:
        times = tl.load(entry + 2)
        begin = ((path * rows + row + 1) * (source_past + source_times) - times) * SOURCE_WIDTH
        to = kept + tl.load(entry + 3) * 8
        _copy(source + begin, to, times * SOURCE_WIDTH, part, parts, BLOCK)
    if path < FOLLOWING_PATHS:
        pitch = following_past + following_times
        times = tl.load(entry + 4)
        begun = following + (path * rows + row) * pitch * FOLLOWING_WIDTH
        missing = (following_past - times) * FOLLOWING_WIDTH  # the paths keep unlike lengths
        _clear(begun, missing, part, parts, BLOCK)
        before = kept + tl.load(entry + 5) * 8
        _copy(before, begun + missing, times * FOLLOWING_WIDTH, part, parts, BLOCK)
        if (path == FOLLOWING_PATHS - 1) & (row == rows - 1):
            _clear(begun + pitch * FOLLOWING_WIDTH, SLACK, part, parts, BLOCK)


@triton.jit(do_not_specialize=_VARIES)  # type: ignore[untyped-decorator]
def convolve(  # type: ignore[no-untyped-def]
    source, residual, raw, activated, following, weights, biases, alphas,
    table, parts, state, state_size, slots, rows, times, dilation,
    source_past, residual_past, residual_shared, raw_past, following_past, activates,
    PATHS: tl.constexpr, SOURCE_WIDTH: tl.constexpr, WIDTH: tl.constexpr, SNAKED: tl.constexpr,
    FOLD: tl.constexpr, COLUMNS: tl.constexpr,
    RESIDUAL: tl.constexpr, RAW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    CARRY: tl.constexpr,
):  # fmt: skip
    """A dilated causal convolution of every path, and what comes before the next one.

    ``FOLD`` outputs, a dilation apart, are columns of one product: narrow layers read their
    input that much less often, for some multiplications with zeros.

    ``following`` is what the next layer reads, and gets its past: ``activated`` where
    ``activates`` is 1, else ``raw``. ``residual`` may be ``raw``: a program reads there what it
    writes, no more. It is one for all paths where ``residual_shared`` is 1.
    """
    program = tl.program_id(0)
    TILES_N: tl.constexpr = (FOLD * WIDTH + BLOCK_N - 1) // BLOCK_N
    per_row = tl.cdiv(times, FOLD * dilation) * dilation
    count = rows * per_row
    tiles = tl.cdiv(count, BLOCK_M) * TILES_N
    if program < PATHS * tiles:
        path = PATHS - 1 - program // tiles  # those with the most taps first
        tile = program % tiles
        place = tl.minimum((tile // TILES_N) * BLOCK_M + tl.arange(0, BLOCK_M), count - 1)
        row = place // per_row
        place = place % per_row
        time = (place // dilation) * (FOLD * dilation) + place % dilation
        column = (tile % TILES_N) * BLOCK_N + tl.arange(0, BLOCK_N)

        taps = tl.load(table + path * 6)
        pitch = source_past + times
        begin = (path * rows + row) * pitch + source_past - (taps - 1) * dilation + time
        windows = source + (begin * SOURCE_WIDTH)[:, None]
        inner = tl.arange(0, BLOCK_K)
        matrix = weights + tl.load(table + path * 6 + 1) * 16
        matrix = matrix + inner[:, None] * COLUMNS + column[None, :]
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in range(0, (taps + FOLD - 1) * SOURCE_WIDTH, BLOCK_K):
            at = start + inner
            at = (at // SOURCE_WIDTH) * (dilation * SOURCE_WIDTH) + at % SOURCE_WIDTH
            total = tl.dot(tl.load(windows + at[None, :]), tl.load(matrix), total)
            matrix += BLOCK_K * COLUMNS

        total += tl.load(biases + path * COLUMNS + column)[None, :]
        channel = column % WIDTH
        output = time[:, None] + (column // WIDTH * dilation)[None, :]
        inside = (output < times) & (column < FOLD * WIDTH)[None, :]
        last = (tile // TILES_N) * BLOCK_M + tl.arange(0, BLOCK_M) < count
        inside = inside & last[:, None]
        line = ((path * rows + row) * times)[:, None] + output  # of a buffer without past
        before = (path * rows + row + 1)[:, None]
        if RESIDUAL:
            first = path * rows * residual_shared * (times + residual_past)
            at = (line + before * residual_past - first) * WIDTH + channel[None, :]
            total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        if RAW:
            at = (line + before * raw_past) * WIDTH + channel[None, :]
            tl.store(raw + at, _stored(total, raw), mask=inside)
        if activates == 1:
            total = _activate(
                total, alphas + path * 2 * WIDTH, channel, channel < WIDTH, SNAKED, WIDTH
            )
            at = (line + before * following_past) * WIDTH + channel[None, :]
            tl.store(activated + at, _stored(total, activated), mask=inside)
    else:
        _carry(
            program - PATHS * tiles, parts, state, state_size, slots, table, rows,
            source, source_past, times, following, following_past, times,
            PATHS, SOURCE_WIDTH, PATHS, WIDTH, CARRY,
        )  # fmt: skip


@triton.jit(do_not_specialize=_VARIES)  # type: ignore[untyped-decorator]
def upsample(  # type: ignore[no-untyped-def]
    source, raw, activated, weights, biases, source_alphas, alphas, table, parts, state, state_size,
    slots, rows, times, source_past, activated_past, phases,
    SOURCE_PATHS: tl.constexpr, SOURCE_WIDTH: tl.constexpr, SOURCE_SNAKED: tl.constexpr,
    PATHS: tl.constexpr, WIDTH: tl.constexpr, SNAKED: tl.constexpr, RATE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    CARRY: tl.constexpr,
):  # fmt: skip
    """The mean of the paths, activated; each two channels to one, at ``RATE`` times the rate.

    The transposed convolution is two strides long, so that an output hears two inputs. A
    program makes ``phases`` of the ``RATE`` outputs of an input.
    ``weights`` is ``(4, RATE, WIDTH)``: of the even channel now and before, then of the odd.
    ``raw`` is ``(rows, times * RATE, WIDTH)``, ``activated`` the same for each path, with past.
    """
    program = tl.program_id(0)
    TILES_C: tl.constexpr = (WIDTH + BLOCK_C - 1) // BLOCK_C
    split = RATE // phases
    per_row = tl.cdiv(times, BLOCK_T) * TILES_C * split
    if program < rows * per_row:
        row = program // per_row
        first_phase = program % split * phases
        tile = program % per_row // split
        time = tile // TILES_C * BLOCK_T + tl.arange(0, BLOCK_T)
        first = tile % TILES_C * BLOCK_C
        pair = 2 * first + tl.arange(0, 2 * BLOCK_C)
        channel = first + tl.arange(0, BLOCK_C)
        wanted = (time < times)[:, None] & (pair < SOURCE_WIDTH)[None, :]
        now = tl.zeros([BLOCK_T, 2 * BLOCK_C], tl.float32)
        before = tl.zeros([BLOCK_T, 2 * BLOCK_C], tl.float32)
        for path in tl.static_range(SOURCE_PATHS):
            at = (path * rows + row) * (source_past + times) + source_past + time
            at = at[:, None] * SOURCE_WIDTH + pair[None, :]
            now += tl.load(source + at, mask=wanted, other=0.0).to(tl.float32)
            before += tl.load(source + at - SOURCE_WIDTH, mask=wanted, other=0.0).to(tl.float32)
        inside = pair < SOURCE_WIDTH
        now = now * (1.0 / SOURCE_PATHS)
        now = _activate(now, source_alphas, pair, inside, SOURCE_SNAKED, SOURCE_WIDTH)
        before = before * (1.0 / SOURCE_PATHS)
        before = _activate(before, source_alphas, pair, inside, SOURCE_SNAKED, SOURCE_WIDTH)
        even, odd = tl.split(tl.reshape(now, [BLOCK_T, BLOCK_C, 2]))
        even_before, odd_before = tl.split(tl.reshape(before, [BLOCK_T, BLOCK_C, 2]))

        inside = channel < WIDTH
        wanted = (time < times)[:, None] & inside[None, :]
        bias = tl.load(biases + channel, mask=inside, other=0.0)[None, :]
        for phase in range(first_phase, first_phase + phases):
            tap = weights + phase * WIDTH + channel
            total = bias + even * tl.load(tap, mask=inside, other=0.0)[None, :]
            tap += RATE * WIDTH
            total += even_before * tl.load(tap, mask=inside, other=0.0)[None, :]
            tap += RATE * WIDTH
            total += odd * tl.load(tap, mask=inside, other=0.0)[None, :]
            tap += RATE * WIDTH
            total += odd_before * tl.load(tap, mask=inside, other=0.0)[None, :]
            line = time * RATE + phase
            to = (row * times * RATE + line)[:, None] * WIDTH + channel[None, :]
            tl.store(raw + to, _stored(total, raw), mask=wanted)
            for path in tl.static_range(PATHS):
                out = _activate(total, alphas + path * 2 * WIDTH, channel, inside, SNAKED, WIDTH)
                begun = (path * rows + row) * (activated_past + times * RATE) + activated_past
                to = (begun + line)[:, None] * WIDTH + channel[None, :]
                tl.store(activated + to, _stored(out, activated), mask=wanted)
    else:
        _carry(
            program - rows * per_row, parts, state, state_size, slots, table, rows,
            source, source_past, times, activated, activated_past, times * RATE,
            SOURCE_PATHS, SOURCE_WIDTH, PATHS, WIDTH, CARRY,
        )  # fmt: skip


@triton.jit(do_not_specialize=_VARIES)  # type: ignore[untyped-decorator]
def finish(  # type: ignore[no-untyped-def]
    source, audio, weights, bias, alphas, table, parts, state, state_size, slots, rows, times,
    source_past,
    PATHS: tl.constexpr, WIDTH: tl.constexpr, SNAKED: tl.constexpr, TAPS: tl.constexpr,
    CLAMP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    CARRY: tl.constexpr,
):  # fmt: skip
    """The mean of the paths, activated, through the last convolution, squashed: audio.

    ``weights`` is ``(TAPS, WIDTH)``, ``audio`` ``(rows, times)`` in float32.
    """
    program = tl.program_id(0)
    per_row = tl.cdiv(times, BLOCK_T)
    if program < rows * per_row:
        row = program // per_row
        time = program % per_row * BLOCK_T + tl.arange(0, BLOCK_T)
        channel = tl.arange(0, BLOCK_C)
        inside = channel < WIDTH
        wanted = (time < times)[:, None] & inside[None, :]
        total = tl.zeros([BLOCK_T], tl.float32) + tl.load(bias)
        for tap in tl.static_range(TAPS):
            mean = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
            for path in tl.static_range(PATHS):
                at = (path * rows + row) * (source_past + times) + source_past + time
                at = (at - (TAPS - 1 - tap))[:, None] * WIDTH + channel[None, :]
                mean += tl.load(source + at, mask=wanted, other=0.0).to(tl.float32)
            mean = mean * (1.0 / PATHS)
            mean = _activate(mean, alphas, channel, inside, SNAKED, WIDTH)
            weight = tl.load(weights + tap * WIDTH + channel, mask=inside, other=0.0)
            total += tl.sum(mean * weight[None, :], 1)
        if CLAMP:  # noqa: SIM108
            total = tl.clamp(total, -1.0, 1.0)
        else:
            total = 1.0 - 2.0 / (tl.exp(2.0 * total) + 1.0)  # tanh
        tl.store(audio + row * times + time, total, mask=time < times)
    else:
        _carry(
            program - rows * per_row, parts, state, state_size, slots, table, rows,
            source, source_past, times, source, source_past, times,
            PATHS, WIDTH, 0, WIDTH, CARRY,
        )  # fmt: skip


@triton.jit(do_not_specialize=_VARIES)  # type: ignore[untyped-decorator]
def begin(  # type: ignore[no-untyped-def]
    codes, vectors, following, table, parts, state, state_size, slots, rows, frames, past,
    BOOKS: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    CARRY: tl.constexpr,
):  # fmt: skip
    """What the codes stand for, with its past: ``(rows, past + frames, WIDTH)``.

    ``codes`` is ``(rows, BOOKS, frames)``, ``vectors`` ``(BOOKS, SIZE, DEPTH)``.
    """
    program = tl.program_id(0)
    if program < rows:
        for start in range(0, frames * WIDTH, CARRY):
            at = start + tl.arange(0, CARRY)
            frame = at // WIDTH
            channel = at % WIDTH
            book = channel // DEPTH
            inside = (frame < frames) & (book < BOOKS)
            code = tl.load(codes + (program * BOOKS + book) * frames + frame, mask=inside, other=0)
            place = (book * SIZE + code) * DEPTH + channel % DEPTH
            value = tl.load(vectors + place, mask=inside, other=0.0)
            at += (program * (past + frames) + past) * WIDTH
            tl.store(following + at, _stored(value, following), mask=frame < frames)
    else:
        _carry(
            program - rows, parts, state, state_size, slots, table, rows,
            following, past, frames, following, past, frames,
            0, WIDTH, 1, WIDTH, CARRY,
        )  # fmt: skip
