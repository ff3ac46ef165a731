#!/usr/bin/env python3
"""Rewrites the backbone of a config to this project's: from mmpretrain's SwinTransformerV2, timm's, or a Swin V1.

    python tools/migrate_config.py my_swin_config.py my_swinv2_config.py

DST has SRC as its base and states the difference. What changes its meaning, or cannot be taken over, is printed, and
stands as comments in DST. Then its model is built, without memory.
"""
from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmswinv2.core.arch import ARCHS, get_arch
from mmswinv2.hosts import HOSTS, is_installed

RELEASED = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
# of each size: a released file, and the windows that it was pre-trained with
WEIGHTS = {
    'tiny': ('swinv2_tiny_patch4_window16_256.pth', [16, 16, 16, 8]),
    'small': ('swinv2_small_patch4_window16_256.pth', [16, 16, 16, 8]),
    'base': ('swinv2_base_patch4_window12_192_22k.pth', [12, 12, 12, 6]),
    'large': ('swinv2_large_patch4_window12_192_22k.pth', [12, 12, 12, 6]),
}
SHORT = dict(t='tiny', s='small', b='base', l='large', h='huge', g='giant')
TIMM = re.compile(r'swinv2_(tiny|small|base|large)_window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?')
SAME = ('in_channels', 'drop_path_rate', 'out_indices', 'with_cp', 'norm_eval', 'init_cfg')
V1_WEIGHTS = 'weights of Swin V1 are for another attention and are left out'
SMALL_MAP = 'pad_small_map: a map that is no larger than the window is one window here, and not padded'
KINDS = dict(SwinTransformerV2='mmpretrain', TIMMBackbone='timm', SwinTransformer='v1', SwinTransformerV1='v1',
             SwinTransformer3D='v1')


@dataclass
class Migration:
    """The config of a backbone of ours, and what a reader must know of it."""

    backbone: dict
    notes: list[str] = field(default_factory=list)  # what has another meaning now, or has to be chosen
    lost: list[str] = field(default_factory=list)  # what could not be taken over
    model: dict = field(default_factory=dict)  # what changes in the model around it
    top: dict = field(default_factory=dict)  # what changes beside the model


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 if something is lost or DST cannot be used, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', type=Path, help='a config with a Swin backbone; it is not changed')
    parser.add_argument('dst', metavar='DST', type=Path, help='the config to write, FILE.py; it must not be there')
    args = parser.parse_args(argv)
    try:
        if args.dst.exists() or args.dst.suffix != '.py':
            raise ValueError(f'DST must not be there yet and must end in .py, got {args.dst}')
        try:
            cfg = Config.fromfile(args.src, import_custom_modules=False)
        except Exception as e:  # a config is a program
            raise ValueError(f'SRC must be a config that mmengine reads, got {args.src}: {reason(e)}') from e
        path, model = find_backbone(cfg.get('model'))
        result = migrate(model[path[-1]], scope=cfg.get('default_scope'), model=model, load_from=cfg.get('load_from'))
        args.dst.parent.mkdir(parents=True, exist_ok=True)
        args.dst.write_text(text(args.src, args.dst, cfg, path, result))
    except Exception as e:  # the values of a config may be anything
        print(f'migrate_config: {reason(e)}', file=sys.stderr)
        return 2
    for what, lines in (('note', result.notes), ('not taken over', result.lost)):
        for line in lines:
            print(f'{what}: {line}')
    print(f'wrote {args.dst}')
    try:
        print(build(args.dst, path))
    except Exception as e:
        print(f'migrate_config: {args.dst} cannot be used here: {reason(e)}', file=sys.stderr)
        return 1
    return int(bool(result.lost))


def reason(e: Exception) -> str:
    """An error in one line."""
    kind = '' if isinstance(e, (ValueError, OSError)) else f'{type(e).__name__}: '
    return f'{kind}{" ".join(str(e).split())}'


def build(dst: Path, path: tuple[str, ...]) -> str:
    """Reads the config that was written, builds its model on the meta device, and says what was built."""
    cfg = Config.fromfile(dst)
    scope = cfg.get('default_scope')
    whole = scope in HOSTS and is_installed(scope)
    if whole:
        import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    with torch.device('meta'), DefaultScope.overwrite_default_scope(scope):
        MODELS.build(cfg.model if whole else reduce(lambda model, key: model[key], path, cfg.model))
    return 'its model can be built' if whole else (
        f'its backbone can be built; its model was not built, for default_scope={scope!r} is no host that is installed')


def kind_of(config: Mapping) -> str | None:
    """How a backbone is migrated; None if it is of no type that is known."""
    scope, _, name = str(config.get('type')).rpartition('.')
    return KINDS.get(name) if scope != 'mmswinv2' else None


def find_backbone(model: Mapping | None) -> tuple[tuple[str, ...], dict]:
    """The keys that lead from the model to its one backbone of a known type, and the model that it is in."""
    def search(config: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping]]:
        for key, value in config.items():
            if isinstance(value, Mapping):
                if kind_of(value) is not None:
                    yield (*path, key), config
                else:
                    yield from search(value, (*path, key))

    if not isinstance(model, Mapping):
        raise ValueError(f'SRC must have a model.backbone, got model={model!r}')
    found = list(search(model))
    if len(found) > 1:
        raise ValueError(f'SRC must have one Swin backbone, got model.{", model.".join(".".join(p) for p, _ in found)}')
    if not found:
        backbone = model.get('backbone')
        kind = backbone.get('type') if isinstance(backbone, Mapping) else None
        if isinstance(kind, type):
            raise ValueError(f'SRC must be in text style, whose types are names, got model.backbone.type={kind!r}')
        raise ValueError('model.backbone.type must be SwinTransformerV2 of mmpretrain, TIMMBackbone, SwinTransformer '
                         f'or SwinTransformer3D, got {kind!r}')
    path, inner = found[0]
    return path, inner.to_dict()


def migrate(backbone: dict, *, scope: str | None, model: dict, load_from: str | None) -> Migration:
    """Rewrites a backbone of a known type, in a model of a config with this ``default_scope`` and ``load_from``."""
    outer, _, name = backbone['type'].rpartition('.')
    given = {k: v for k, v in backbone.items() if k not in ('type', '_delete_')}
    kind, video = KINDS[name], name.endswith('3D')
    theirs = not video and ('arch' in given or (outer or scope) == 'mmpretrain')
    result = from_v1(given, mmpretrain=theirs, video=video) if kind == 'v1' else (
        from_timm(given) if kind == 'timm' else from_mmpretrain(given))
    take_model(model, load_from, result, usable=kind != 'v1')
    # what no rule knows is lost
    result.lost += [f'{name}={value!r}: not known' for name, value in given.items()]
    return result


def take_model(model: dict, load_from: str | None, result: Migration, *, usable: bool) -> None:
    """What stands around the backbone and concerns its weights, which are ``usable`` unless they are of Swin V1."""
    init = model.get('init_cfg')
    if model.get('pretrained'):
        result.model['pretrained'] = None
        if usable:
            result.backbone['init_cfg'] = dict(type='Pretrained', checkpoint=model['pretrained'])
            result.notes.append('model.pretrained: it is init_cfg of the backbone now, which takes no head')
        else:
            result.notes.append(f'model.pretrained: {V1_WEIGHTS}')
    if isinstance(init, Mapping) and init.get('type') == 'Pretrained' and not usable:
        result.model['init_cfg'] = None
        result.notes.append(f'model.init_cfg: {V1_WEIGHTS}')
    configs = [init] if isinstance(init, Mapping) else init or []
    kept = [config for config in configs if config.get('layer') not in ('LayerNorm', ['LayerNorm'])]
    if len(kept) < len(configs):
        result.model['init_cfg'] = kept or None
        result.notes.append('model.init_cfg: without LayerNorm; those of the blocks begin with 0')
    if load_from and not usable:
        result.top['load_from'] = None
        result.notes.append(f'load_from: {V1_WEIGHTS}')


def take(given: dict, result: Migration, names: tuple[str, ...]) -> None:
    """Moves what is the same in both."""
    for name in names:
        if name in given:
            result.backbone[name] = given.pop(name)
    init = result.backbone.pop('init_cfg', None)
    if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
        prefix = dict(prefix=init['prefix'].rstrip('.') + '.') if init.get('prefix') else {}
        result.backbone['init_cfg'] = dict(type='Pretrained', checkpoint=init.get('checkpoint'), **prefix)
    elif init:
        result.notes.append('init_cfg: left out, the backbone initialises itself')


def take_mmpretrain(given: dict, result: Migration, **options: list) -> None:
    """Moves what mmpretrain's V1 and V2 have in common.

    ``options`` are values by stage, which ``stage_cfgs`` and the ``block_cfgs`` in it change.
    """
    stages = len(options['window_size'])
    configs = per_stage(given.pop('stage_cfgs', None) or {}, stages)
    if len(configs) != stages:
        raise ValueError(f'stage_cfgs must have one entry per stage, {stages}, got {len(configs)}')
    for i, config in enumerate(configs):
        config = dict(config)
        blocks = config.pop('block_cfgs', None) or {}
        blocks = [dict(block) for block in ([blocks] if isinstance(blocks, Mapping) else blocks)]
        for name, values in options.items():
            values[i] = config.pop(name, values[i])
            of_blocks = [block.pop(name, values[i]) for block in blocks]
            if of_blocks.count(of_blocks[0]) == len(blocks):
                values[i] = of_blocks[0]
            else:
                config[f'{name} of blocks'] = of_blocks
        for block in blocks:
            config.update(block)
        result.lost += [f'stage_cfgs: {name}={value!r}, of stage {i}' for name, value in config.items()]
    result.backbone.setdefault('out_indices', given.pop('out_indices', (3,)))
    given.pop('img_size', None), given.pop('interpolate_mode', None)  # any size; of embeddings that are refused
    if given.pop('drop_rate', 0.):
        result.lost.append('drop_rate: there it is of the embedding alone, here of projections and MLPs too')
    frozen = given.pop('frozen_stages', -1)
    if frozen >= 0:
        result.backbone['frozen_stages'] = frozen + 1
        result.notes.append(f'frozen_stages: {frozen} there, which freezes one stage more, is {frozen + 1} here, where '
                            'a stage has the merging after it')
    if given.pop('pad_small_map', False):
        result.notes.append(SMALL_MAP)
    refuse(given, result, patch_cfg={})


def per_stage(value, stages: int) -> list:
    """A value of all stages as a list of one for each; a list is that already."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * stages


def alike(values: list):
    """The one value of all stages, or the list."""
    return values[0] if values.count(values[0]) == len(values) else values


def refuse(given: dict, result: Migration, **defaults) -> None:
    """Moves away what this backbone has no place for; it is lost where it is not the default."""
    for name, default in defaults.items():
        if name in given and given.pop(name) not in (default, None):
            result.lost.append(f'{name}: there is no such option')


def from_mmpretrain(given: dict) -> Migration:
    """mmpretrain's SwinTransformerV2."""
    arch = given.pop('arch', 'tiny')
    result = Migration(dict(arch=arch))
    if isinstance(arch, str):
        name = SHORT.get(arch.lower(), arch.lower())
        result.backbone['arch'] = 'g' if name == 'giant' else name
        if name == 'giant':
            result.notes.append("arch: 'giant' of mmpretrain is 'g' here, the paper's 3.0B; 'simmim_giant' is another")
        if name == 'huge':
            heads = dict(ARCHS['huge'], num_heads=[8, 16, 32, 64])
            result.backbone['arch'] = {k: list(v) if isinstance(v, tuple) else v for k, v in heads.items()}
            result.notes.append("arch: mmpretrain's huge has 8, 16, 32, 64 heads; the authors' 11, 22, 44, 88 are "
                                "arch='huge'")
    stages = len(get_arch(result.backbone['arch']).depths)
    windows = per_stage(given.pop('window_size', 8), stages)
    before = list(given.pop('pretrained_window_sizes', [0] * stages))
    take_mmpretrain(given, result, window_size=windows, pretrained_window_size=before)
    result.backbone['window_size'] = alike(windows)
    if any(before):
        result.backbone['pretrained_window_sizes'] = [b or w for b, w in zip(before, windows)]
    result.backbone['drop_path_rate'] = given.pop('drop_path_rate', .1)
    norm = given.pop('norm_cfg', dict(type='LN'))
    if norm is None or norm.get('type') != 'LN' or norm.get('eps', 1e-5) != 1e-5:
        result.lost.append(f'norm_cfg={norm!r}: norms are LayerNorms with an eps of 1e-5')
    take(given, result, SAME)
    refuse(given, result, patch_size=4, use_abs_pos_embed=False)
    return result


def from_timm(given: dict) -> Migration:
    """timm's ``swinv2_*`` in mmpretrain's TIMMBackbone."""
    name = given.pop('model_name', '')
    match = TIMM.match(name)
    if match is None:
        raise ValueError('model.backbone.model_name must be swinv2_SIZE_windowN_PIXELS (swinv2_cr_* is another model), '
                         f'got {name!r}')
    before, after, old, pixels = (int(match[i] or match[j]) for i, j in ((2, 2), (3, 2), (4, 4), (5, 4)))
    windows, pretrained = ([min(window, image // (4 * 2**i)) for i in range(4)]
                           for window, image in ((after, pixels), (before, old)))
    result = Migration(dict(arch=match[1], window_size=windows, pretrained_window_sizes=pretrained))
    features = given.pop('features_only', False)
    result.backbone['out_indices'] = given.pop('out_indices', (0, 1, 2, 3) if features else (3,))
    if features:
        result.notes.append('outputs have a norm each; those of timm have none')
    if given.pop('pretrained', False):
        result.notes.append("pretrained=True: name a file, init_cfg=dict(type='Pretrained', checkpoint=...); timm's "
                            'are read as they are')
    if given.get('checkpoint_path'):
        result.backbone['init_cfg'] = dict(type='Pretrained', checkpoint=given['checkpoint_path'])
    given.pop('checkpoint_path', None)
    take(given, result, SAME)
    return result


def from_v1(given: dict, *, mmpretrain: bool = False, video: bool = False) -> Migration:
    """Swin V1, another model of the same size: its options in mmdet and mmseg, in mmpretrain or mmaction2 (video)."""
    arch = given.pop('arch', 'tiny' if mmpretrain else None)
    if arch is None:
        arch = dict(embed_dims=given.pop('embed_dims', 96), depths=list(given.pop('depths', (2, 2, 6, 2))),
                    num_heads=list(given.pop('num_heads', (3, 6, 12, 24))))
    elif isinstance(arch, str):
        arch = SHORT.get(arch.lower(), arch.lower())
    checked = get_arch(arch)
    name = next((known for known, sizes in ARCHS.items() if get_arch(sizes) == checked), None)
    result = Migration(dict(arch=name or arch))
    frames, *old = given.pop('window_size', (8, 7, 7)) if video else (None, given.pop('window_size', 7))
    old = [alike(old)] * len(checked.depths)
    if mmpretrain:
        take_mmpretrain(given, result, window_size=old)
    file, windows = WEIGHTS.get(name, (None, old))
    ours = [[frames, *per_stage(window, 2)] for window in windows] if video else windows if file else alike(windows)
    result.backbone['window_size'] = ours
    if file is not None:
        result.backbone.update(pretrained_window_sizes=ours,
                               init_cfg=dict(type='Pretrained', checkpoint=RELEASED + file))
        result.notes.append(f'window_size: {alike(old)} there; {windows} here, that of the weights. Any other '
                            'extrapolates: pretrained_window_sizes stay')
    for key in ('init_cfg', 'pretrained'):
        if given.pop(key, None):
            result.notes.append(f'{key}: {V1_WEIGHTS}{"; released ones of V2 are named" if file else ""}')
    if video:
        patch = given.pop('patch_size', (2, 4, 4))
        result.backbone = dict(type='mmswinv2.VideoSwinTransformerV2', **result.backbone,
                               temporal_patch_size=patch[0], out_indices=given.pop('out_indices', (3,)))
        given.pop('pretrained2d', None)
        given['patch_size'] = alike(patch[1:])
    result.backbone['drop_path_rate'] = given.pop('drop_path_rate', .1)
    take(given, result, ('frozen_stages', 'qkv_bias', 'mlp_ratio', 'drop_rate', 'attn_drop_rate', *SAME[:-1]))
    given.pop('pretrain_img_size', None), given.pop('convert_weights', None)
    given.pop('qk_scale', None)  # the scale is learnt
    norm = given.pop('norm_cfg', dict(type='LN'))
    if norm is None or norm.get('type') != 'LN':
        result.lost.append(f'norm_cfg={norm!r}: norms are LayerNorms')
    refuse(given, result, patch_size=4, strides=(4, 2, 2, 2), patch_norm=True, use_abs_pos_embed=False,
           act_cfg=dict(type='GELU'), out_after_downsample=False)
    return result


def text(src: Path, dst: Path, cfg: Config, path: tuple[str, ...], result: Migration) -> str:
    """The config that is written."""
    comments = [f'# Note: {line}' for line in result.notes] + [f'# Not taken over: {line}' for line in result.lost]
    backbone = dict(dict(type='mmswinv2.SwinTransformerV2'), **result.backbone)
    custom = cfg.get('custom_imports') or {}
    imports, failing = custom.get('imports') or [], bool(custom.get('allow_failed_imports'))
    imports = per_stage(imports, 1)
    imports += [name for name in ('mmswinv2', 'mmswinv2.engine.setup') if name not in imports]
    base = os.path.relpath(src.absolute(), dst.absolute().parent)
    *outer, last = ('model', *path)
    return '\n'.join([
        f'# {src.name} with SwinV2, written by tools/migrate_config.py.', *comments, f'_base_ = {base!r}', '',
        f'custom_imports = dict(imports={imports!r}, allow_failed_imports={failing})',
        "default_hooks = dict(convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'))",
        *(f'{key} = {value!r}' for key, value in result.top.items()),
        f'{outer[0]} = dict({"".join(f"{key}=dict(" for key in outer[1:])}',
        *(f'    {key}={value!r},' for key, value in result.model.items()),
        f'    {last}=dict(',
        *(f'        {key}={value!r},' for key, value in dict(_delete_=True, **backbone).items()),
        f'    {")" * len(path)})', ''])


if __name__ == '__main__':
    sys.exit(main())
