"""Triton kernels of window attention, over the map as it is: nothing is padded, rolled or masked.

A program attends for one tile of tokens of one cell and one head, and no two programs write the same element: there are
no atomics, and the same inputs give the same bits. Each kernel has two variants. ``WHOLE`` is for cells that are whole
windows, whose sizes are constants; where tiles divide them, nothing is masked. The other is for the cells at the border
of the map, and for all cells of windows that a small map cuts, of any size: tiles hold tokens of the cell alone, and
positions beyond its last token repeat it. No other size, and no number of heads, is a constant.

Maps have three axes here; missing leading axes have one token. The bias is read from its table, at offsets of a query
from a key. Logits are products of unnormalised queries and keys, divided by their lengths in float32. The rows that a
program keeps, of queries or of keys, are first divided by a power of two near their length. This is exact, and products
neither under- nor overflow.

Legend: N tokens of a window, D channels of a head, BM x BN a tile of queries x keys, NH heads, TOKENS of all maps;
maps are qkv (TOKENS, 3, NH, D), out (TOKENS, NH, D), lse (TOKENS, NH), inverse (2, NH, TOKENS), delta (NH, TOKENS).

Source:
    Online softmax and its backward pass: arXiv:2205.14135 (FlashAttention), algorithms 1 and 4.
"""
import triton
import triton.language as tl

from .cells import find_cell, may_have, place, place_in_window, window

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
MAX_LOGIT_SCALE = tl.constexpr(4.605170185988092)  # log 100
# kernels are not compiled again for other values, not even for 1 or a multiple of 16
sizes_at_run_time = triton.jit(do_not_specialize=[
    'TOKENS', 'NH', 'L0', 'L1', 'L2', 'S0', 'S1', 'S2', 'R0', 'R1', 'R2', 'EVERY', 'TILES', 'CELLS', 'HEADS',
    'FIRST_HEAD', 'SPLITS', 'FIRST_SPLIT', 'FIRST_PROGRAM', 'PROGRAMS'])


@triton.jit
def _power_of_two(x):
    """The largest power of two that is no larger than x >= 0, at least the smallest normal number."""
    return tl.maximum(x.to(tl.int32, bitcast=True) & 0x7F800000, 0x00800000).to(tl.float32, bitcast=True)


@triton.jit
def _kept(x, inverse, EXACT: tl.constexpr):
    """Rows (rows, D) that a program keeps, and their remaining inverse lengths: unit rows, or in 16 bit rows divided by
    a power of two near their length."""
    if EXACT:
        return x * inverse[:, None], tl.full(inverse.shape, 1., tl.float32)
    power = _power_of_two(inverse)
    return (x.to(tl.float32) * power[:, None]).to(x.dtype), inverse / power


@triton.jit
def _passing(x, inverse, EXACT: tl.constexpr):
    """Rows that a program loads tile by tile, and their inverse lengths: as :func:`_kept`, but bfloat16 rows are
    unchanged. In float16 a gradient of logits times the inverse of a small length would overflow."""
    if EXACT or x.dtype == tl.float16:
        return _kept(x, inverse, EXACT)
    return x, inverse


@triton.jit
def _scale(logit_scale, h):
    return tl.exp(tl.minimum(tl.load(logit_scale + h).to(tl.float32), MAX_LOGIT_SCALE))


@triton.jit
def _dot(a, b, EXACT: tl.constexpr):
    return tl.dot(a, b, input_precision='tf32x3' if EXACT else 'tf32')


@triton.jit
def _add_dot(a, b, total, EXACT: tl.constexpr):
    return tl.dot(a, b, total, input_precision='tf32x3' if EXACT else 'tf32')


@triton.jit
def _in_base(x, EXACT: tl.constexpr):
    """Converts a natural logit to the base of the kernels: 2, as the hardware's exponential has. Where float32 is exact
    to the last bits the base is e: to the base 2, logits above 128 / log2(e) have one bit less."""
    return x if EXACT else x * LOG2E


@triton.jit
def _exp(x, EXACT: tl.constexpr):
    return tl.exp(x) if EXACT else tl.exp2(x)


@triton.jit
def _log_sum(largest, weight, EXACT: tl.constexpr):
    return largest + tl.log(weight) if EXACT else (largest + tl.log2(weight)) * LN2


@sizes_at_run_time
def lengths(qkv, inverse, TOKENS, NH, D: tl.constexpr, BM: tl.constexpr):
    """Inverse lengths of queries and keys, 0 for rows of zeros; squares neither under- nor overflow."""
    pid = tl.program_id(0)
    which = pid % (2 * NH)  # queries, then keys, of each head
    t = pid // (2 * NH) * BM + tl.arange(0, BM)
    ok = t < TOKENS
    x = tl.load(qkv + t.to(tl.int64)[:, None] * (3 * NH * D) + which * D + tl.arange(0, D)[None, :], mask=ok[:, None],
                other=0.).to(tl.float32)
    power = _power_of_two(tl.max(tl.abs(x), 1))
    x = x / power[:, None]
    squared = tl.sum(x * x, 1)
    zero = squared == 0
    result = tl.where(zero, 0., 1. / tl.sqrt(tl.where(zero, 1., squared)) / power)
    tl.store(inverse + which.to(tl.int64) * TOKENS + t, result, mask=ok)


@sizes_at_run_time
def forward(qkv, inverse, table, logit_scale, out, lse, TOKENS, NH, L0, L1, L2, S0, S1, S2, R0, R1, R2, EVERY, TILES,
            W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
            FLAT: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr):
    """Result and log-sum-exp of a tile of queries."""
    w0, w1, w2 = window(R0, R1, R2, W0, W1, W2, WHOLE)
    EVEN: tl.constexpr = WHOLE and W0 * W1 * W2 % BN == 0  # tiles divide cells
    C = NH * D
    TABLE = (2 * w0 - 1) * (2 * w1 - 1) * (2 * w2 - 1)
    pid = tl.program_id(0)
    h = pid // TILES % NH
    first, n0, n1, n2 = find_cell(pid // (TILES * NH), L0, L1, L2, S0, S1, S2, w0, w1, w2, EVERY, WHOLE)
    n = w0 * w1 * w2 if WHOLE else n0 * n1 * n2
    start = pid % TILES * BM
    if start < n:
        channels = tl.arange(0, D)
        tq = start + tl.arange(0, BM)
        q_there = tq < n
        q_row, q_place = place(tl.minimum(tq, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
        base = qkv + first * (3 * C) + h * D
        inverse += h.to(tl.int64) * TOKENS + first
        q, q_left = _kept(tl.load(base + q_row[:, None] * (3 * C) + channels[None, :]), tl.load(inverse + q_row), EXACT)
        q_factor = q_left * (_in_base(_scale(logit_scale, h), EXACT))
        middle = table + h * TABLE + TABLE // 2
        total = tl.zeros((BM, D), tl.float32)
        largest = tl.full((BM,), -float('inf'), tl.float32)
        weight = tl.zeros((BM,), tl.float32)
        for j in range(0, n, BN):
            tk = j + tl.arange(0, BN)
            if EVEN:
                k_row, k_place = place(tk, n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            else:
                k_row, k_place = place(tl.minimum(tk, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            rows = base + k_row[:, None] * (3 * C) + channels[None, :]
            k, k_left = _passing(tl.load(rows + C), tl.load(inverse + tl.cast(NH, tl.int64) * TOKENS + k_row), EXACT)
            v = tl.load(rows + 2 * C)
            bias = tl.load(middle + (q_place[:, None] - k_place[None, :]))
            logits = _dot(q, tl.trans(k), EXACT)
            logits = logits * (q_factor[:, None] * k_left[None, :]) + bias
            if not EVEN:
                logits = tl.where((tk < n)[None, :], logits, -float('inf'))
            top = tl.maximum(largest, tl.max(logits, 1))
            p = _exp(logits - top[:, None], EXACT)
            fade = _exp(largest - top, EXACT)
            weight = weight * fade + tl.sum(p, 1)
            total = _add_dot(p.to(v.dtype), v, total * fade[:, None], EXACT)
            largest = top
        out += first * C + h * D
        tl.store(out + q_row[:, None] * C + channels[None, :], (total / weight[:, None]).to(out.dtype.element_ty),
                 mask=q_there[:, None])
        tl.store(lse + first * NH + h + q_row * NH, _log_sum(largest, weight, EXACT), mask=q_there)


@sizes_at_run_time
def backward_q(qkv, inverse, table, logit_scale, out, grad_out, lse, delta, grad_qkv, grad_scale, TOKENS, NH,
               L0, L1, L2, S0, S1, S2, R0, R1, R2, EVERY, TILES, FIRST_PROGRAM, PROGRAMS, W0: tl.constexpr,
               W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
               FLAT: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr):
    """The gradient of a query tile, its part of the gradient of ``logit_scale`` (NH, PROGRAMS), ``delta = sum(p dp)``.

    ``delta`` from the rounded result is off by 2^-9. The gradient is linear in ``delta``: one sum has the rounded one,
    a second the correction for the exact one, known at the end. Both sums are small where the gradient is.

    The log-sum-exp is rounded too: in float32 at a scale of 100, rows of p sum to 1 within 8e-6. There each row is
    divided by its sum. Other kernels do so by the inverse sums and by ``delta`` over the sum: delta (2, NH, TOKENS).
    """
    w0, w1, w2 = window(R0, R1, R2, W0, W1, W2, WHOLE)
    EVEN: tl.constexpr = WHOLE and W0 * W1 * W2 % BN == 0  # tiles divide cells
    C = NH * D
    TABLE = (2 * w0 - 1) * (2 * w1 - 1) * (2 * w2 - 1)
    pid = tl.program_id(0)
    h = pid // TILES % NH
    u = pid // (TILES * NH)
    first, n0, n1, n2 = find_cell(u, L0, L1, L2, S0, S1, S2, w0, w1, w2, EVERY, WHOLE)
    n = w0 * w1 * w2 if WHOLE else n0 * n1 * n2
    start = pid % TILES * BM
    part = tl.cast(0., tl.float32)
    if start < n:
        channels = tl.arange(0, D)
        tq = start + tl.arange(0, BM)
        q_there = tq < n
        q_row, q_place = place(tl.minimum(tq, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
        base = qkv + first * (3 * C) + h * D
        inverse += h.to(tl.int64) * TOKENS + first
        q_inverse = tl.load(inverse + q_row)
        q, q_left = _kept(tl.load(base + q_row[:, None] * (3 * C) + channels[None, :]), q_inverse, EXACT)
        scale = _scale(logit_scale, h)
        q_factor = q_left * (_in_base(scale, EXACT))
        at = first * C + h * D + q_row[:, None] * C + channels[None, :]
        grad = tl.load(grad_out + at)
        along_out = tl.sum(tl.load(out + at).to(tl.float32) * grad.to(tl.float32), 1)
        log_sum = _in_base(tl.load(lse + first * NH + h + q_row * NH), EXACT)
        middle = table + h * TABLE + TABLE // 2
        total = tl.zeros((BM, D), tl.float32)  # with the rounded delta
        mean_k = tl.zeros((BM, D), tl.float32)
        error = tl.zeros((BM,), tl.float32)
        along_scale = tl.zeros((BM,), tl.float32)
        weight = tl.zeros((BM,), tl.float32)  # of a row of p: 1, or summed where EXACT
        for j in range(0, n, BN):
            tk = j + tl.arange(0, BN)
            if EVEN:
                k_row, k_place = place(tk, n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            else:
                k_row, k_place = place(tl.minimum(tk, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            rows = base + k_row[:, None] * (3 * C) + channels[None, :]
            k, k_left = _passing(tl.load(rows + C), tl.load(inverse + tl.cast(NH, tl.int64) * TOKENS + k_row), EXACT)
            v = tl.load(rows + 2 * C)
            bias = tl.load(middle + (q_place[:, None] - k_place[None, :]))
            cosines = _dot(q, tl.trans(k), EXACT) * (q_factor[:, None] * k_left[None, :])  # times the scale
            p = _exp(cosines + bias - log_sum[:, None], EXACT)
            if not EVEN:
                p = tl.where((tk < n)[None, :], p, 0.)
            grad_logits = p * (_dot(grad, tl.trans(v), EXACT) - along_out[:, None])
            error += tl.sum(grad_logits, 1)
            along_scale += tl.sum(grad_logits * cosines, 1)
            if EXACT:
                weight += tl.sum(p, 1)
            total = _add_dot((grad_logits * k_left[None, :]).to(k.dtype), k, total, EXACT)
            mean_k = _add_dot((p * k_left[None, :]).to(k.dtype), k, mean_k, EXACT)
        if EXACT:
            error /= weight
        else:
            weight += 1
        unit = q.to(tl.float32) * q_left[:, None]
        along_scale = along_scale / _in_base(1., EXACT) - error * (scale * tl.sum(mean_k * unit, 1))
        total = (total - error[:, None] * mean_k) / weight[:, None]
        result = (total - unit * tl.sum(total * unit, 1)[:, None]) * (scale * q_inverse)[:, None]
        tl.store(grad_qkv + first * (3 * C) + h * D + q_row[:, None] * (3 * C) + channels[None, :],
                 result.to(grad_qkv.dtype.element_ty), mask=q_there[:, None])
        delta += h.to(tl.int64) * TOKENS + first
        tl.store(delta + q_row, (along_out + error) / weight, mask=q_there)
        if EXACT:
            tl.store(delta + tl.cast(NH, tl.int64) * TOKENS + q_row, 1. / weight, mask=q_there)
        part = tl.sum(tl.where(q_there, along_scale / weight, 0.))
    tl.store(grad_scale + h * PROGRAMS + FIRST_PROGRAM + u * TILES + pid % TILES, part)


@sizes_at_run_time
def backward_kv(qkv, inverse, table, logit_scale, grad_out, lse, delta, grad_qkv, TOKENS, NH, L0, L1, L2, S0, S1, S2,
                R0, R1, R2, EVERY, TILES, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr,
                BM: tl.constexpr, BN: tl.constexpr, FLAT: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr):
    """The gradients of a tile of keys and values; logits are (keys, queries)."""
    w0, w1, w2 = window(R0, R1, R2, W0, W1, W2, WHOLE)
    EVEN: tl.constexpr = WHOLE and W0 * W1 * W2 % BM == 0  # tiles divide cells
    C = NH * D
    TABLE = (2 * w0 - 1) * (2 * w1 - 1) * (2 * w2 - 1)
    pid = tl.program_id(0)
    h = pid // TILES % NH
    first, n0, n1, n2 = find_cell(pid // (TILES * NH), L0, L1, L2, S0, S1, S2, w0, w1, w2, EVERY, WHOLE)
    n = w0 * w1 * w2 if WHOLE else n0 * n1 * n2
    start = pid % TILES * BN
    if start < n:
        channels = tl.arange(0, D)
        tk = start + tl.arange(0, BN)
        k_there = tk < n
        k_row, k_place = place(tl.minimum(tk, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
        base = qkv + first * (3 * C) + h * D
        inverse += h.to(tl.int64) * TOKENS + first
        k_inverse = tl.load(inverse + tl.cast(NH, tl.int64) * TOKENS + k_row)
        own = base + k_row[:, None] * (3 * C) + channels[None, :]
        k, k_left = _kept(tl.load(own + C), k_inverse, EXACT)
        v = tl.load(own + 2 * C)
        scale = _scale(logit_scale, h)
        middle = table + h * TABLE + TABLE // 2
        grad_out += first * C + h * D
        lse += first * NH + h
        delta += h.to(tl.int64) * TOKENS + first
        total_k = tl.zeros((BN, D), tl.float32)
        total_v = tl.zeros((BN, D), tl.float32)
        for i in range(0, n, BM):
            tq = i + tl.arange(0, BM)
            if EVEN:
                q_row, q_place = place(tq, n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            else:
                q_row, q_place = place(tl.minimum(tq, n - 1), n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            q, q_left = _passing(tl.load(base + q_row[:, None] * (3 * C) + channels[None, :]), tl.load(inverse + q_row),
                                 EXACT)
            grad = tl.load(grad_out + q_row[:, None] * C + channels[None, :])
            log_sum = _in_base(tl.load(lse + q_row * NH), EXACT)
            along_out = tl.load(delta + q_row)
            if EXACT:
                grad *= tl.load(delta + tl.cast(NH, tl.int64) * TOKENS + q_row)[:, None]
            bias = tl.load(middle + (q_place[None, :] - k_place[:, None]))
            if EXACT:  # in the order of the kernel whose sums divide rows: to the same bits
                logits = tl.trans(_dot(q, tl.trans(k), EXACT))
            else:
                logits = _dot(k, tl.trans(q), EXACT)
            logits = logits * ((k_left * (_in_base(scale, EXACT)))[:, None] * q_left[None, :]) + bias
            p = _exp(logits - log_sum[None, :], EXACT)
            if not EVEN:
                p = tl.where((tq < n)[None, :], p, 0.)
            total_v = _add_dot(p.to(grad.dtype), grad, total_v, EXACT)
            grad_logits = p * (_dot(v, tl.trans(grad), EXACT) - along_out[None, :])
            total_k = _add_dot((grad_logits * q_left[None, :]).to(q.dtype), q, total_k, EXACT)
        unit = k.to(tl.float32) * k_left[:, None]
        along = tl.sum(total_k * unit, 1)
        total_k = (total_k - unit * along[:, None]) * (scale * k_inverse)[:, None]
        target = grad_qkv + first * (3 * C) + h * D + k_row[:, None] * (3 * C) + channels[None, :]
        tl.store(target + C, total_k.to(grad_qkv.dtype.element_ty), mask=k_there[:, None])
        tl.store(target + 2 * C, total_v.to(grad_qkv.dtype.element_ty), mask=k_there[:, None])


@sizes_at_run_time
def backward_bias(qkv, inverse, table, logit_scale, grad_out, lse, delta, parts, TOKENS, NH, L0, L1, L2, S0, S1, S2,
                  R0, R1, R2, EVERY, CELLS, FIRST_HEAD, HEADS, SPLITS, FIRST_SPLIT, W0: tl.constexpr, W1: tl.constexpr,
                  W2: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, FLAT: tl.constexpr,
                  WHOLE: tl.constexpr, EXACT: tl.constexpr):
    """The gradient of the bias at a tile of pairs of positions, of every SPLITS-th cell: parts (splits, HEADS, N, N).

    A cell at the border fills a window from its first token: the bias knows offsets only.
    """
    w0, w1, w2 = window(R0, R1, R2, W0, W1, W2, WHOLE)
    N = w0 * w1 * w2
    C = NH * D
    TABLE = (2 * w0 - 1) * (2 * w1 - 1) * (2 * w2 - 1)
    ACROSS = (N + BN - 1) // BN
    TILES = (N + BM - 1) // BM * ACROSS
    pid = tl.program_id(0)
    tile = pid % TILES
    head = pid // TILES % HEADS
    split = pid // (TILES * HEADS)
    h = FIRST_HEAD + head
    channels = tl.arange(0, D)
    q_first = tile // ACROSS * BM
    k_first = tile % ACROSS * BN
    tq = q_first + tl.arange(0, BM)
    tk = k_first + tl.arange(0, BN)
    q_position = tl.minimum(tq, N - 1)
    k_position = tl.minimum(tk, N - 1)
    _, q_place = place(q_position, w1, w2, L1, L2, w1, w2, FLAT, WHOLE)
    _, k_place = place(k_position, w1, w2, L1, L2, w1, w2, FLAT, WHOLE)
    middle = table + h * TABLE + TABLE // 2
    bias = tl.load(middle + (q_place[:, None] - k_place[None, :]))
    scale = _scale(logit_scale, h)
    total = tl.zeros((BM, BN), tl.float32)
    for u in range(split, CELLS, SPLITS):
        first, n0, n1, n2 = find_cell(u, L0, L1, L2, S0, S1, S2, w0, w1, w2, EVERY, WHOLE)
        if WHOLE or (may_have(q_first, q_first + BM - 1, n0, n1, w1, w2)
                     & may_have(k_first, k_first + BN - 1, n0, n1, w1, w2)):
            q_row, q_there = place_in_window(q_position, n0, n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            k_row, k_there = place_in_window(k_position, n0, n1, n2, L1, L2, w1, w2, FLAT, WHOLE)
            base = qkv + first * (3 * C) + h * D
            own = inverse + h.to(tl.int64) * TOKENS + first
            q, q_left = _kept(tl.load(base + q_row[:, None] * (3 * C) + channels[None, :]), tl.load(own + q_row), EXACT)
            rows = base + k_row[:, None] * (3 * C) + channels[None, :]
            k, k_left = _passing(tl.load(rows + C), tl.load(own + tl.cast(NH, tl.int64) * TOKENS + k_row), EXACT)
            v = tl.load(rows + 2 * C)
            grad = tl.load(grad_out + first * C + h * D + q_row[:, None] * C + channels[None, :])
            log_sum = _in_base(tl.load(lse + first * NH + h + q_row * NH), EXACT)
            rest = delta + h.to(tl.int64) * TOKENS + first
            along_out = tl.load(rest + q_row)
            if EXACT:
                grad *= tl.load(rest + tl.cast(NH, tl.int64) * TOKENS + q_row)[:, None]
            logits = _dot(q, tl.trans(k), EXACT)
            logits = logits * ((q_left * (_in_base(scale, EXACT)))[:, None] * k_left[None, :]) + bias
            p = _exp(logits - log_sum[:, None], EXACT)
            if not WHOLE:
                p = tl.where(q_there[:, None] & k_there[None, :], p, 0.)
            total += p * (_dot(grad, tl.trans(v), EXACT) - along_out[:, None])
    parts += ((FIRST_SPLIT + split) * HEADS + head).to(tl.int64) * (N * N)
    tl.store(parts + tq[:, None] * N + tk[None, :], total, mask=(tq < N)[:, None] & (tk < N)[None, :])
