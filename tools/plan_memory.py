#!/usr/bin/env python3
"""Prints where the memory of a training step goes, for several settings and strategies, and which fit a card.

Everything not given is read from the config: batch size, mixed precision, strategy, optimizer. The model runs on the
meta device, where tensors have sizes and no memory; figures are for one GPU of several that train together.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmswinv2.core.attention.config import MIB
from mmswinv2.models import SwinTransformerV2
from planner.counting import BackboneMemory, Setting, backbone_memory
from planner.heads import HeadsMemory, heads_memory
from planner.sharding import STRATEGIES, Sharding
from planner.steps import Model, Plan, plan_step

CARDS = (24, 40, 80, 141)  # GiB
DEFAULT_SIZE = 1536  # px, where the config has no fixed size
GPUS = 8  # of a config with a strategy
NAMES = dict(ZeroStrategy='zero1', FSDPStrategy='fsdp', DDPStrategy='none',
             SingleDeviceStrategy='none')
UNITS = ('SwinBlock', 'GlobalAttention')  # of FSDP
AS_IS = 'as in the config'
# whether blocks are checkpointed, and the backend of attention
ROWS = {'plain, whole maps': (False, 'eager'), 'plain': (False, 'auto'), 'checkpointed, whole maps': (True, 'eager'),
        'checkpointed': (True, 'auto'), AS_IS: None}
COLUMNS = ['weights', 'gradients', 'optimizer', 'gathered', 'backbone', 'heads', 'workspace', 'PEAK', 'at']


def main(argv: list[str] | None = None) -> int:
    """Runs the planner; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='of MMDetection, MMSegmentation, MMPretrain or MMAction2')
    parser.add_argument('--size', type=int, nargs='+', help=f'pixels: one, or height and width; default: that of the '
                        f'config if it is fixed, else {DEFAULT_SIZE}')
    parser.add_argument('--frames', type=int, help='of a clip; default: that of the config (clip_len)')
    parser.add_argument('--batch', type=int, help='images on a GPU')
    parser.add_argument('--gpus', type=int, help=f'that train together; default: {GPUS} if the config has a strategy '
                        'that shards, else 1')
    parser.add_argument('--strategy', choices=['config', *STRATEGIES], default='config')
    parser.add_argument('--amp', choices=['config', 'none', 'bf16', 'fp16'], default='config',
                        help='mixed precision in the backbone')
    parser.add_argument('--objects', type=int, default=100, help='in an image, for the assignment of anchors')
    parser.add_argument('--card', type=int, choices=CARDS, help='GiB; default: all')
    parser.add_argument('--rows', nargs='*', choices=ROWS, metavar='ROW', default=list(ROWS), help='of the first '
                        f'table, for each of which the model is run: {", ".join(map(repr, ROWS))}; default: all')
    args = parser.parse_args(argv)
    options = {k: v for k, v in vars(args).items() if k not in ('config', 'card', 'rows')}
    try:
        show(Planner(args.config, **options), args.rows, [args.card] if args.card else list(CARDS))
    except (ValueError, OSError) as e:
        print(f'plan_memory: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    return 0


class Planner:
    """A config, and what a step of its training takes on a GPU.

    Args:
        config: Its file.
        size, frames, batch, gpus, strategy, amp, objects: In place of what the config says, as on the command line.

    Raises:
        ValueError: if the config cannot be read or has no SwinV2 backbone, or an option is out of range.
    """

    def __init__(self, config: str, *, size: Sequence[int] | None = None, frames: int | None = None,
                 batch: int | None = None, gpus: int | None = None, strategy: str = 'config', amp: str = 'config',
                 objects: int = 100) -> None:
        for name, value in dict(batch=batch, gpus=gpus, objects=objects, frames=frames).items():
            if value is not None and value < 1:
                raise ValueError(f'--{name} must be >= 1, got {value}')
        if size is not None and (len(size) > 2 or min(size) < 1):
            raise ValueError(f'--size must be one or two numbers >= 1 px, got {size}')
        try:
            cfg = Config.fromfile(config)
            model = build(cfg)
            net = find_backbone(model)
            self.image = (size[0], size[-1]) if size else image_size(cfg)
            if net.config.axes == 3:
                self.image = (frames or clip_length(cfg), *self.image)
            elif frames:
                raise ValueError(f'--frames must be given for a backbone on video, got {frames}')
            self.batch = batch or int(cfg.get('train_dataloader', {}).get('batch_size', 1))
            self.sharding, self.optimizer = read_sharding(cfg, strategy, gpus)
            self.setting = read_setting(cfg, net, amp)
            self.run = cache(self._run)  # rows have settings in common
            self.run(self.setting)
        except OSError:
            raise
        except Exception as e:  # a config is a program, and its model raises what it likes
            raise ValueError(f'{config}: {type(e).__name__}: {e}') from e
        self.heads = count_heads(model, net, self.image, self.batch, objects)
        self.rest = count_model(model, net, self.heads, (cfg.get('strategy') or {}).get('units', UNITS))

    def plan(self, row: str = AS_IS, strategy: str | None = None) -> Plan:
        """Plans one setting, a key of ``ROWS``, with one strategy; None: that of the config."""
        setting, sharding = self.setting, self.sharding
        if ROWS[row] is not None:
            with_cp, backend = ROWS[row]
            setting = replace(setting, config=replace(setting.config, with_cp=with_cp, attn_backend=backend,
                                                      attn_budget_mib=None))
        if strategy is not None:
            view = sharding.bucket_view or strategy != 'none'
            sharding = replace(sharding, strategy=strategy, bucket_view=view)
        return plan_step(self.run(setting), self.rest, sharding)

    def _run(self, setting: Setting) -> BackboneMemory:
        return backbone_memory(setting, self.image, self.batch)


def build(cfg: Config) -> torch.nn.Module:
    """The model on the meta device, in training mode.

    Raises:
        ValueError: if the config has none.
    """
    if not cfg.get('model'):
        raise ValueError('CONFIG must have a model.backbone of type mmswinv2.SwinTransformerV2, got no model')
    scope = cfg.get('default_scope', 'mmengine')
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    with torch.device('meta'), DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg.model).train()


def find_backbone(model: torch.nn.Module) -> SwinTransformerV2:
    """The SwinV2 of a model, wherever it is; of several the one that is trained, as a teacher is not.

    Raises:
        ValueError: if there is not one.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, SwinTransformerV2)}
    trained = {name: m for name, m in found.items() if any(p.requires_grad for p in m.parameters())}
    nets = trained if len(found) > 1 else found
    if len(nets) != 1:
        raise ValueError('CONFIG must have a model.backbone of type mmswinv2.SwinTransformerV2, or one elsewhere in '
                         f'the model, got {", ".join(nets) or "none"}')
    return next(iter(nets.values()))


def image_size(cfg: Config) -> tuple[int, int]:
    """(H, W) of training images, where the config fixes it."""
    size = cfg.model.get('data_preprocessor', {}).get('size') or cfg.get('crop_size') or cfg.get('image_size')
    if isinstance(size, int):
        size = (size, size)
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (DEFAULT_SIZE, DEFAULT_SIZE)


def clip_length(cfg: Config) -> int:
    """Frames of a training clip.

    Raises:
        ValueError: if the config does not say it as ``clip_len``.
    """
    if not isinstance(cfg.get('clip_len'), int):
        raise ValueError('--frames must be given: the config has no clip_len')
    return cfg.clip_len


def read_sharding(cfg: Config, given: str, gpus: int | None) -> tuple[Sharding, str]:
    """Strategy and optimizer of a config, and the optimizer's name.

    Raises:
        ValueError: if the strategy is unknown, or FSDP does not shard block by block.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer = wrapper.get('optimizer') or dict(type='AdamW')
    name = str(optimizer.get('optimizer_type', optimizer.get('type'))).rpartition('.')[2]
    kind = (cfg.get('strategy') or {}).get('type')
    strategy = 'zero1' if str(optimizer.get('type')).endswith('ZeroRedundancyOptimizer') else 'none'
    if kind is not None:
        kind = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
        if kind not in NAMES:
            raise ValueError(f'strategy.type must be one of {", ".join(NAMES)}, got {kind!r}')
        strategy = NAMES[kind]
        if 'SwinBlock' not in cfg.strategy.get('units', UNITS):
            raise ValueError(f'strategy.units must have SwinBlock for the planner, got {cfg.strategy["units"]}')
    view = strategy != 'none' and kind is not None or bool(
        (cfg.get('model_wrapper_cfg') or {}).get('gradient_as_bucket_view', False))
    if given != 'config':
        strategy, view = given, view or given != 'none'
    states = (4 if optimizer.get('momentum') else 0) if name == 'SGD' else 8
    foreach = not optimizer.get('fused') and optimizer.get('foreach') is not False
    return Sharding(strategy, gpus or (1 if strategy == 'none' else GPUS), view, states, foreach), name


def read_setting(cfg: Config, net: torch.nn.Module, amp: str) -> Setting:
    """How the config computes the backbone."""
    everywhere = str((cfg.get('optim_wrapper') or {}).get('type')).endswith('AmpOptimWrapper')
    autocast = net.autocast_dtype is not None or everywhere if amp == 'config' else amp != 'none'
    return Setting(net.config, autocast, everywhere and net.autocast_dtype is None and amp == 'config')


def count_heads(model: torch.nn.Module, net: SwinTransformerV2, image: tuple[int, ...], batch: int,
                objects: int) -> HeadsMemory:
    """What neck and heads need, or what is not known of them."""
    maps = [(batch, net.arch.dims[i], *net.map_lengths(image)[i]) for i in net.out_indices]
    try:
        return heads_memory(model, maps, image, objects=objects)
    except Exception as e:  # heads of any other kind may need anything
        return HeadsMemory(0, 0, 0, (f'neck and heads ({type(e).__name__}: {" ".join(str(e).split())[:80]})',))


def count_model(model: torch.nn.Module, net: SwinTransformerV2, heads: HeadsMemory, units: Sequence[str]) -> Model:
    """Numbers of parameters of a model."""
    own, parts = set(net.parameters()), set(net.modules())

    def count(inside: bool, trainable: bool) -> int:
        return sum(p.numel() for p in model.parameters() if (p in own) == inside and (p.requires_grad or not trainable))

    sharded = tuple(sum(p.numel() for p in m.parameters()) for m in model.modules()
                    if type(m).__name__ in units and m not in parts)
    return Model(count(True, False), count(True, True), count(False, False), count(False, True), sharded, heads.kept,
                 heads.peak, heads.neck_peak)


def show(planner: Planner, rows: Sequence[str], cards: Sequence[int]) -> None:
    """Prints a table of settings, and one of strategies."""
    sharding, rest, left_out = planner.sharding, planner.rest, planner.heads.left_out
    print(f'backbone {rest.parameters / 1e6:.1f}M parameters, neck and heads {rest.others / 1e6:.1f}M; '
          f'{" x ".join(map(str, (planner.batch, *planner.image)))} px per GPU; '
          f'{"autocast" if planner.setting.autocast else "float32"}; {planner.optimizer}, '
          f'{"foreach" if sharding.foreach else "fused"}; GiB on each of {sharding.gpus} GPU'
          f'{"s" if sharding.gpus > 1 else ""}')

    def line(cells: Sequence[str]) -> None:
        print(f'{cells[0]:<25}' + ''.join(f'{c:>10}' for c in cells[1:]))

    def plan(name: str, row: str, strategy: str | None = None) -> None:
        p = planner.plan(row, strategy)
        figures = (p.weights, p.gradients, p.optimizer, p.gathered, p.activations, p.heads, p.workspace, p.peak)
        # a tenth of a card is for the context and what the allocator holds
        verdicts = ('-' if p.peak > .9 * c * 1024 * MIB else '?' if left_out else 'fits' for c in cards)
        line([name, *(f'{size / 1024 / MIB:.2f}' for size in figures), p.moment, *verdicts])

    heads = [*COLUMNS, *(f'{c} GiB' for c in cards)]
    line([f'strategy {sharding.strategy}', *heads])
    for row in rows:
        plan(row, row)
    print()
    line([AS_IS, *heads])
    for strategy in STRATEGIES:
        plan(strategy, AS_IS, strategy)
    print('gradients: with buckets; gathered: weights and gradients of others at the peak; backbone, heads: what they '
          'keep for the\nbackward pass; workspace: there at the peak only; the peak is less than the sum, for not all '
          'is there at once.')
    if left_out:
        print(f'not counted: activations of {", ".join(left_out)}; ?: so whether it fits is not known')


if __name__ == '__main__':
    sys.exit(main())
