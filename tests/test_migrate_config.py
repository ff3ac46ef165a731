"""``tools/migrate_config.py``: backbones of mmpretrain, timm and Swin V1, and what is said of them."""
import re

import pytest
import torch
from mmengine.config import Config

import migrate_config
from mmswinv2.models import SwinTransformerV2

pytestmark = pytest.mark.mmengine

SMALL = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], extra_norm_every_n_blocks=0)


def run(tmp_path, backbone, more=''):
    (tmp_path / 'src.py').write_text(f'model = dict(type="A", backbone=dict({backbone}))\n{more}')
    code = migrate_config.main([str(tmp_path / 'src.py'), str(tmp_path / 'out' / 'dst.py')])
    path = tmp_path / 'out' / 'dst.py'
    return code, Config.fromfile(path) if path.exists() else None


def build(cfg):
    backbone = cfg.model.backbone.to_dict()
    assert backbone.pop('type') == 'mmswinv2.SwinTransformerV2'
    with torch.device('meta'):
        return SwinTransformerV2(**backbone)


def test_of_mmpretrain(tmp_path, capsys):
    code, cfg = run(tmp_path, f"type='mmpretrain.SwinTransformerV2', arch={SMALL}, img_size=384, "
                    'window_size=[8, 8, 8, 4], pretrained_window_sizes=[6, 6, 6, 0], frozen_stages=0, '
                    'pad_small_map=True, with_cp=True, drop_path_rate=0.3, out_indices=(1, 3)')
    net = build(cfg)
    assert code == 0 and net.window_sizes[3] == (4, 4)
    assert net.pretrained_window_sizes == ((6, 6), (6, 6), (6, 6), (4, 4)) and net.out_indices == (1, 3)
    assert net.frozen_stages == 1 and net.config.with_cp == (True,) * 4 and net.config.drop_path_rate == .3
    assert cfg.custom_imports.imports == ['mmswinv2', 'mmswinv2.engine.setup'] and cfg.model.type == 'A'
    assert cfg.default_hooks.convert_checkpoint.type == 'mmswinv2.ConvertCheckpointHook'
    out = capsys.readouterr().out
    assert 'note: frozen_stages: 0 there' in out and 'note: pad_small_map' in out
    assert '# Note: pad_small_map' in (tmp_path / 'out' / 'dst.py').read_text()


@pytest.mark.parametrize('arch, parameters', [('giant', 2998e6), ('huge', 655e6), ('t', 27.6e6)])
def test_names_of_mmpretrain(arch, parameters, tmp_path, capsys):
    """Its giant is our g, and its huge has other heads."""
    code, cfg = run(tmp_path, f"type='SwinTransformerV2', arch='{arch}'")
    net = build(cfg)
    assert code == 0 and sum(p.numel() for p in net.parameters()) == pytest.approx(parameters, rel=.01)
    assert net.arch.num_heads[0] == dict(giant=16, huge=8, t=3)[arch]
    assert ('note: arch' in capsys.readouterr().out) == (arch != 't')


def test_what_cannot_be_taken_over_is_said(tmp_path, capsys):
    code, cfg = run(tmp_path, "type='SwinTransformerV2', drop_rate=0.1, use_abs_pos_embed=True, "
                    "norm_cfg=dict(type='BN'), strange=1, stage_cfgs=dict(a=1)")
    out = capsys.readouterr().out
    assert code == 1 and build(cfg)
    for what in ('drop_rate: there', 'use_abs_pos_embed: there is no', 'norm_cfg=', 'strange=1: not known',
                 'stage_cfgs:'):
        assert f'not taken over: {what}' in out


@pytest.mark.parametrize('name, window, before', [
    ('swinv2_tiny_window8_256', [8, 8, 8, 8], [8, 8, 8, 8]),
    ('swinv2_tiny_window16_256.ms_in1k', [16, 16, 16, 8], [16, 16, 16, 8]),
    ('swinv2_base_window12to24_192to384.ms_in22k_ft_in1k', [24, 24, 24, 12], [12, 12, 12, 6]),
    ('swinv2_base_window12to16_192to256', [16, 16, 16, 8], [12, 12, 12, 6])])
def test_of_timm(name, window, before, tmp_path, capsys):
    code, cfg = run(tmp_path, f"type='TIMMBackbone', model_name='{name}', features_only=True, pretrained=True")
    assert code == 0 and cfg.model.backbone.window_size == window
    assert cfg.model.backbone.pretrained_window_sizes == before and build(cfg).out_indices == (0, 1, 2, 3)
    assert 'note: pretrained=True: name a file' in capsys.readouterr().out


def test_of_swin_v1(tmp_path, capsys):
    """As mmdet's Swin-T."""
    code, cfg = run(tmp_path, "type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], "
                    'window_size=7, mlp_ratio=4, qkv_bias=True, qk_scale=None, drop_rate=0., attn_drop_rate=0., '
                    'drop_path_rate=0.2, patch_norm=True, out_indices=(0, 1, 2, 3), convert_weights=True, '
                    "init_cfg=dict(type='Pretrained', checkpoint='swin_tiny.pth')",
                    "custom_imports = dict(imports=['json'], allow_failed_imports=True)")
    assert code == 0 and cfg.model.backbone.arch == 'tiny'
    assert cfg.model.backbone.init_cfg.checkpoint.endswith('swinv2_tiny_patch4_window16_256.pth')
    assert cfg.custom_imports.imports == ['json', 'mmswinv2', 'mmswinv2.engine.setup']
    out = capsys.readouterr().out
    assert 'weights of Swin V1 are for another attention' in out and 'window_size: 7 there' in out
    assert build(cfg).config.drop_path_rate == .2


@pytest.mark.parametrize('backbone, message', [
    ("type='ResNet'", "model.backbone.type must be SwinTransformerV2 of mmpretrain, .* got 'ResNet'"),
    ("type='mmswinv2.SwinTransformerV2'", "got 'mmswinv2.SwinTransformerV2'"),
    ("type='TIMMBackbone', model_name='swinv2_cr_tiny_224'", "model_name must be .* got 'swinv2_cr_tiny_224'"),
    ("type='SwinTransformerV2', arch='x'", "arch must be one of tiny, .* got 'x'")])
def test_bad_input_is_one_line(backbone, message, tmp_path, capsys):
    code, cfg = run(tmp_path, backbone)
    err = capsys.readouterr().err
    assert code == 2 and cfg is None and re.search(message, err) and err.count('\n') == 1


def test_nothing_is_overwritten(tmp_path, capsys):
    assert run(tmp_path, "type='SwinTransformerV2'")[0] == 0
    assert run(tmp_path, "type='SwinTransformerV2'")[0] == 2
    assert 'DST must not be there yet' in capsys.readouterr().err
