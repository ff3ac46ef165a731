"""Cells of a map in Triton kernels: which one a program has, and where its tokens are. Elsewhere ``grid.py`` does this.

``WHOLE`` is for cells that are whole windows, W0 x W1 x W2, whose sizes are constants. The others are those at the
border of the map, or ``EVERY`` cell, of windows whose sizes R0 x R1 x R2 are not compiled for. Functions that take both
have w0 x w1 x w2. L0 x L1 x L2 are the tokens of a map, S0, S1, S2 the shift. ``FLAT`` maps have one along axis 0.
"""
import triton
import triton.language as tl


@triton.jit
def window(R0, R1, R2, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, WHOLE: tl.constexpr):
    """The sizes of a window."""
    if WHOLE:
        return W0, W1, W2
    else:
        return R0, R1, R2


@triton.jit
def _count(length, shift, window):
    """Cells along an axis: (whole windows, 1 if there is a smaller first one, all)."""
    whole = (length - shift) // window
    first = tl.minimum(shift, 1)
    return whole, first, first + whole + tl.minimum((length - shift) % window, 1)


@triton.jit
def _run(cell, length, shift, window):
    """First token and size of a cell of an axis."""
    start = tl.where(shift > 0, tl.where(cell == 0, 0, shift + (cell - 1) * window), cell * window)
    end = tl.minimum(tl.where((shift > 0) & (cell == 0), shift, start + window), length)
    return start, end - start


@triton.jit
def _at_border(i, first, cells):
    """The i-th cell of an axis that is no whole window."""
    return tl.where(i < first, 0, cells - 1)


@triton.jit
def find_cell(u, L0, L1, L2, S0, S1, S2, w0, w1, w2, EVERY, WHOLE: tl.constexpr):
    """The u-th cell of a batch: (its first token, its sizes).

    Cells at the border are in slabs: at the border along axis 0, of the others those along axis 1, then axis 2. With
    ``EVERY`` the whole windows follow.
    """
    m0, f0, c0 = _count(L0, S0, w0)
    m1, f1, c1 = _count(L1, S1, w1)
    m2, f2, c2 = _count(L2, S2, w2)
    if WHOLE:
        per_map = m0 * m1 * m2
        i = u % per_map
        x0 = f0 + i // (m1 * m2)
        x1 = f1 + i // m2 % m1
        x2 = f2 + i % m2
    else:
        slab0 = (c0 - m0) * c1 * c2
        slab1 = m0 * (c1 - m1) * c2
        slab2 = m0 * m1 * (c2 - m2)
        per_map = slab0 + slab1 + slab2 + EVERY * m0 * m1 * m2
        i = u % per_map
        if i < slab0:
            x0 = _at_border(i // (c1 * c2), f0, c0)
            x1 = i // c2 % c1
            x2 = i % c2
        elif i < slab0 + slab1:
            i -= slab0
            x0 = f0 + i // ((c1 - m1) * c2)
            x1 = _at_border(i // c2 % (c1 - m1), f1, c1)
            x2 = i % c2
        elif i < slab0 + slab1 + slab2:
            i -= slab0 + slab1
            x0 = f0 + i // (m1 * (c2 - m2))
            x1 = f1 + i // (c2 - m2) % m1
            x2 = _at_border(i % (c2 - m2), f2, c2)
        else:
            i -= slab0 + slab1 + slab2
            x0 = f0 + i // (m1 * m2)
            x1 = f1 + i // m2 % m1
            x2 = f2 + i % m2
    a0, n0 = _run(x0, L0, S0, w0)
    a1, n1 = _run(x1, L1, S1, w1)
    a2, n2 = _run(x2, L2, S2, w2)
    image = (u // per_map).to(tl.int64)
    return ((image * L0 + a0) * L1 + a1) * L2 + a2, n0, n1, n2


@triton.jit
def _divide(t, n):
    """t // n, exact for t < 2**20, with one division of scalars."""
    return ((t.to(tl.float32) + .5) * (1. / n.to(tl.float32))).to(tl.int32)


@triton.jit
def _split(t, n1, n2, FLAT: tl.constexpr, WHOLE: tl.constexpr):
    """Where tokens t of a cell are along each axis; sizes of whole windows are constants, which divide fast."""
    row = t // n2 if WHOLE else _divide(t, n2)
    if FLAT:
        i0 = 0 * row
    else:
        i0 = row // n1 if WHOLE else _divide(row, n1)
    return i0, row - i0 * n1, t - row * n2


@triton.jit
def place(t, n1, n2, L1, L2, w1, w2, FLAT: tl.constexpr, WHOLE: tl.constexpr):
    """The map row of each token t of a cell, counted from the cell's first token, and its place in the table."""
    if WHOLE:
        i0, i1, i2 = _split(t, w1, w2, FLAT, WHOLE)
    else:
        i0, i1, i2 = _split(t, n1, n2, FLAT, WHOLE)
    return (i0 * L1 + i1) * L2 + i2, (i0 * (2 * w1 - 1) + i1) * (2 * w2 - 1) + i2


@triton.jit
def may_have(first, last, n0, n1, w1, w2):
    """Whether a cell, which fills a window from its first token, may have tokens at positions ``first`` to ``last``."""
    row = first // w2
    several_slabs = first // (w1 * w2) < last // (w1 * w2)
    return (row // w1 < n0) & (several_slabs | (row % w1 < n1))


@triton.jit
def place_in_window(t, n0, n1, n2, L1, L2, w1, w2, FLAT: tl.constexpr, WHOLE: tl.constexpr):
    """Rows of the map at positions t of a window, and which the cell has; it fills the window from its first token."""
    i0, i1, i2 = _split(t, w1, w2, FLAT, WHOLE)
    there = (i0 < n0) & (i1 < n1) & (i2 < n2)
    if not WHOLE:
        i0 = tl.minimum(i0, n0 - 1)
        i1 = tl.minimum(i1, n1 - 1)
        i2 = tl.minimum(i2, n2 - 1)
    return (i0 * L1 + i1) * L2 + i2, there
