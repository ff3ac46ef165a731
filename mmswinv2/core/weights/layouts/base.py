"""A layout: one table of names and rearrangements, used for reading and, inverted, for writing.

Names in a file are *theirs*, names of the backbone *ours*. Both are below the *root*, the prefix of the backbone in the
file. A layout states each thing once; the other direction is computed from it. A name that is not the backbone's, and
is neither renamed, dropped by a named rule nor kept as an extra, is an error.

Legend: C channels, K classes.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...pretrained_windows import COORDS, WINDOWS_KEY
from .buffers import Geometry

State = dict[str, Tensor]

OWN = re.compile(
    r'patch_embed\.(proj|norm)\.(weight|bias)|'
    r'layers\.\d\.blocks\.\d+\.(norm[123]\.(weight|bias)|mlp\.fc[12]\.(weight|bias)|'
    r'attn\.(qkv\.weight|proj\.(weight|bias)|[qv]_bias|logit_scale|cpb_mlp\.(0\.weight|0\.bias|2\.weight)|'
    r'relative_position_bias_table))|'
    r'layers\.\d\.downsample\.(reduction\.weight|norm\.(weight|bias))|norm\d\.(weight|bias)|' + WINDOWS_KEY)
DERIVED = ((r'.*\.(relative_coords_table|relative_position_index|attn_mask)', 'derived buffers'),)

HEAD, MASK_TOKEN = 'classification head', 'mask token of SimMIM'
EXTRAS = {'head.weight': HEAD, 'head.bias': HEAD, 'mask_token': MASK_TOKEN}  # (K, C), (K,), (1, 1, C)

NUMBER = r'(0|[1-9]\d{0,8})'
FIELDS = dict(part='(weight|bias)', rest='(.+)')  # others are numbers


class Template:
    """Names with fields in braces: ``{part}`` is weight or bias, ``{rest}`` any text, other fields are numbers >= 0,
    such as ``{stage}`` or ``{2*stage+1}``."""

    def __init__(self, text: str) -> None:
        pattern, end = '', 0
        self.pieces: list[tuple[str, str, int, int]] = []
        for match in re.finditer(r'\{(?:(\d+)\*)?(\w+?)(?:\+(\d+))?\}', text):
            literal, (times, name, plus) = text[end:match.start()], match.groups()
            pattern += re.escape(literal) + FIELDS.get(name, NUMBER)
            self.pieces.append((literal, name, int(times or 1), int(plus or 0)))
            end = match.end()
        self.tail = text[end:]
        self.pattern = re.compile(pattern + re.escape(self.tail))

    def parse(self, name: str) -> dict[str, str | int] | None:
        """The values of the fields in a name; None if it is another's."""
        match = self.pattern.fullmatch(name)
        values: dict[str, str | int] = {}
        if match is None:
            return None
        for text, (_, field_name, times, plus) in zip(match.groups(), self.pieces):
            if field_name in FIELDS:
                values[field_name] = text
            else:
                number, left = divmod(int(text) - plus, times)
                if left or number < 0:
                    return None
                values[field_name] = number
        return values

    def fill(self, values: Mapping[str, str | int]) -> str:
        """The name with these values in its fields."""
        return ''.join(f'{literal}{values[name] if name in FIELDS else times * int(values[name]) + plus}'
                       for literal, name, times, plus in self.pieces) + self.tail


class Pairs:
    """Pairs of templates with the same fields, from theirs to ours; the first that fits is used, either way."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = [(Template(theirs), Template(ours)) for theirs, ours in pairs]

    def ours(self, name: str) -> str | None:
        """Our name for theirs; None where no pair fits."""
        return self._first(name, self.pairs)

    def theirs(self, name: str) -> str | None:
        """Their name for ours; None where no pair fits."""
        return self._first(name, [(ours, theirs) for theirs, ours in self.pairs])

    @staticmethod
    def _first(name: str, pairs: Iterable[tuple[Template, Template]]) -> str | None:
        for source, target in pairs:
            values = source.parse(name)
            if values is not None:
                return target.fill(values)
        return None


def in_blocks(theirs: str, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of names within a block, for every block; their names begin with ``theirs``."""
    return [(theirs + a, 'layers.{stage}.blocks.{block}.' + b) for a, b in pairs]


@dataclass(frozen=True)
class Rearrangement:
    """A function of renamed tensors and its inverse; neither changes what it is given."""

    read: Callable[[State], State]
    write: Callable[[State], State]

    @property
    def inverse(self) -> Rearrangement:
        """The inverse rearrangement, for a project whose layout is the other way round."""
        return Rearrangement(self.write, self.read)


def splitting(what: str, whole: str, parts: tuple[str | None, ...]) -> Rearrangement:
    """Splits tensors into equal parts along their first axis; the inverse joins them.

    Args:
        what: The parts in words.
        whole: End of the names of the tensors to split.
        parts: Ends of the names of the parts; None for a part that the project does not use: zeros.
    """
    def split(state: State) -> State:
        out: State = {}
        for name, value in state.items():
            if not name.endswith(whole):
                out[name] = value
                continue
            if not value.ndim or value.shape[0] % len(parts):
                raise ValueError(f'{name} must hold {what} of one shape, got shape {tuple(value.shape)}')
            for part, piece in zip(parts, value.chunk(len(parts))):
                if part is not None:
                    out[name.removesuffix(whole) + part] = piece.clone()
        return out

    def join(state: State) -> State:
        out: State = {}
        for name, value in state.items():
            end = next((part for part in parts if part is not None and name.endswith(part)), None)
            if end is None:
                out[name] = value
                continue
            stem = name.removesuffix(end)
            if stem + whole not in out:
                pieces = [torch.zeros_like(value) if part is None else state.get(stem + part) for part in parts]
                right = [piece for piece in pieces if piece is not None and piece.ndim and piece.shape == value.shape]
                if len(right) < len(parts):
                    raise ValueError(f'checkpoint must hold {what} of one shape at {stem}')
                out[stem + whole] = torch.cat(right)
        return out

    return Rearrangement(split, join)


@dataclass
class Read:
    """The names in a file, sorted by a layout.

    Args:
        state: Names and tensors for the backbone, in our names if the layout knows them.
        extras: Heads and mask tokens, in the names of ``EXTRAS``.
        coords: Tables of coordinates, in our names for them.
        dropped: Names below the root that were not used, by rule.
        outside_root: Names outside the root that were used.
        unknown: Names below the root that are not the layout's.
    """

    state: State = field(default_factory=dict)
    extras: State = field(default_factory=dict)
    coords: State = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    outside_root: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How a project names and stores the weights of its SwinV2.

    Args:
        name: Its name here.
        embedding: Their name of the patch embedding's weight, by which the root is found.
        matches: Whether names below a root, and the root, are the layout's.
        names: (theirs, ours); a name that fits no pair is the same in both.
        aliases: (another name that is read, theirs); it is never written.
        extras: (theirs, ours) of entries below the root that are not the backbone's.
        outside_root: The same, outside the root: a head beside the backbone.
        dropped: (pattern of their whole names, name of the rule).
        rearrangements: What follows renaming on reading, in turn; undone before renaming on writing.
        root: Prefix under which the backbone is written.
        root_in_model: The same in a file with something outside the root; None: ``root``.
        container: Key of a file that holds the weights; None: no container.
        each_norm: Whether there is a norm per output; else there is one norm, after the last stage.
        says_windows: Whether the pre-training windows have an entry of their own.
        computes: What the project can compute beside the paper's arrangement: ``'norm3'``, ``'linear_cpb'``,
            ``'parameterized'``, ``'pre'``, ``'video'``.
        buffers: Derived tensors that the project saves, in our names; None: it saves none.
        windows_matter: Whether the buffers depend on ``window_size`` and ``image_size``.
    """

    name: str
    embedding: str
    matches: Callable[[Collection[str], str], bool]
    names: Pairs = Pairs()
    aliases: Pairs = Pairs()
    extras: Pairs = Pairs()
    outside_root: Pairs = Pairs()
    dropped: tuple[tuple[str, str], ...] = DERIVED
    rearrangements: tuple[Rearrangement, ...] = ()
    root: str = ''
    root_in_model: str | None = None
    container: str | None = None
    each_norm: bool = False
    says_windows: bool = False
    computes: tuple[str, ...] = ()
    buffers: Callable[[Geometry], State] | None = None
    windows_matter: bool = False

    def our_name(self, name: str) -> str | None:
        """Our name for theirs; None if our name would be written as another of theirs, so this one is not theirs."""
        ours = self.names.ours(name) or name
        return ours if self.their_name(ours) == name else None

    def their_name(self, name: str) -> str:
        """Their name for ours."""
        return self.names.theirs(name) or name

    def read(self, inside: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> Read:
        """Renames and rearranges a file's entries below the root, and finds the extras inside and outside it.

        Raises:
            ValueError: if a name occurs twice, or a tensor cannot be rearranged because of its shape.
        """
        read = Read()
        for name, value in inside.items():
            theirs = self.aliases.ours(name) or name
            extra, ours = self.extras.ours(theirs) or self.outside_root.ours(theirs), self.our_name(theirs)
            rule = next((rule for pattern, rule in self.dropped if re.fullmatch(pattern, name)), None)
            if extra is None and ours is not None and COORDS.fullmatch(ours):
                read.coords[ours] = value
            if extra is not None:
                _put(read.extras, extra, value)
            elif rule is not None:
                read.dropped.setdefault(rule, []).append(name)
            elif ours is None:
                read.unknown.append(name)
            else:
                _put(read.state, ours, value)
        for name, value in outside.items():
            extra = self.outside_root.ours(name)
            if extra is not None and extra not in read.extras:
                read.extras[extra] = value
                read.outside_root.append(name)
        try:
            for rearrangement in self.rearrangements:
                read.state = rearrangement.read(read.state)
        except (RuntimeError, IndexError) as e:
            raise ValueError(f'checkpoint must hold weights of the shapes that the layout of {self.name} has: '
                             f'{str(e).splitlines()[0]}') from e
        return read

    def write(self, state: Mapping[str, Tensor], extras: Mapping[str, Tensor]) -> tuple[State, list[str]]:
        """The inverse of :meth:`read`.

        Returns:
            (their names and tensors, from the top of the file; extras that the layout has no place for).
        """
        state = dict(state)
        for rearrangement in reversed(self.rearrangements):
            state = rearrangement.write(state)
        below = {k: theirs for k in extras if (theirs := self.extras.theirs(k)) is not None}
        outside = {k: theirs for k in extras if k not in below and (theirs := self.outside_root.theirs(k)) is not None}
        root = self.root if not outside or self.root_in_model is None else self.root_in_model
        out = {root + self.their_name(k): v for k, v in state.items()}
        out.update({root + theirs: extras[k] for k, theirs in below.items()})
        out.update({theirs: extras[k] for k, theirs in outside.items()})
        return out, [k for k in extras if k not in below and k not in outside]


def _put(state: State, name: str, value: Tensor) -> None:
    if name in state:
        raise ValueError(f'checkpoint must hold each weight once, got two for {name}')
    state[name] = value


def any_name(names: Iterable[str], pattern: str) -> bool:
    """Whether the pattern occurs in one of the names."""
    return any(re.search(pattern, name) for name in names)


def has_blocks(names: Iterable[str]) -> bool:
    """Whether stages and blocks are named as the release does."""
    return any_name(names, r'^layers\.\d\.blocks\.\d+\.')
