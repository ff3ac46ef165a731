"""``tools/migrate_config.py``: backbones of mmpretrain, timm and Swin V1, and what is said of them."""
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import migrate_config
from helpers.configs import HOSTS, PACKAGES
from mmswinv2.models import SwinTransformerV2

pytestmark = pytest.mark.mmengine

SMALL = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], extra_norm_every_n_blocks=0)


def run(tmp_path, backbone, more='', model='type="A"'):
    return migrate(tmp_path, f'model = dict({model}, backbone=dict({backbone}))\n{more}')


def migrate(tmp_path, source):
    (tmp_path / 'src.py').write_text(source)
    code = migrate_config.main([str(tmp_path / 'src.py'), str(tmp_path / 'out' / 'dst.py')])
    path = tmp_path / 'out' / 'dst.py'
    return code, Config.fromfile(path, import_custom_modules=False) if path.exists() else None


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


@pytest.mark.parametrize('imports', ["'json'", "['json']", "('json',)"])
def test_a_string_in_custom_imports_is_one_name(imports, tmp_path):
    code, cfg = run(tmp_path, "type='SwinTransformerV2'", f'custom_imports = dict(imports={imports})')
    assert code == 0 and cfg.custom_imports.imports == ['json', 'mmswinv2', 'mmswinv2.engine.setup']


STAGES = 'dict(block_cfgs=dict(window_size=12))'


@pytest.mark.parametrize('options, windows, before, lost', [
    (f'stage_cfgs={STAGES}', 12, None, []),
    (f'window_size=4, stage_cfgs=[dict(window_size=8), {STAGES}, {{}}, {{}}]', [8, 12, 4, 4], None, []),
    ('stage_cfgs=dict(window_size=12, pretrained_window_size=6)', 12, [6] * 4, []),
    ('stage_cfgs=dict(block_cfgs=[dict(window_size=4), dict(window_size=4)])', 4, None, []),
    ('stage_cfgs=[dict(block_cfgs=[dict(window_size=4), {}]), {}, {}, {}]', 8, None,
     ['window_size of blocks=[4, 8], of stage 0']),
    ('stage_cfgs=dict(window_size=4, block_cfgs=dict(ffn_ratio=2))', 4, None,
     [f'ffn_ratio=2, of stage {i}' for i in range(4)])])
def test_windows_of_stages(options, windows, before, lost, tmp_path, capsys):
    """mmpretrain's stages and blocks may have windows of their own; what a stage of ours cannot have is lost."""
    code, cfg = run(tmp_path, f"type='SwinTransformerV2', {options}")
    assert cfg.model.backbone.window_size == windows and cfg.model.backbone.get('pretrained_window_sizes') == before
    assert build(cfg) and code == bool(lost)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith('not taken over: stage_cfgs: ')]
    assert said == [f'not taken over: stage_cfgs: {line}' for line in lost]


def test_v1_of_mmpretrain(tmp_path, capsys):
    """Its stages are counted from 0, and it has one output where nothing is said."""
    code, cfg = run(tmp_path, f"type='mmpretrain.SwinTransformer', arch='b', frozen_stages=1, stage_cfgs={STAGES}")
    net = build(cfg)
    assert code == 0 and net.out_indices == (3,) and net.frozen_stages == 2
    assert 'window_size: 12 there' in capsys.readouterr().out
    code, cfg = run(tmp_path / 'out', "type='SwinTransformer', embed_dims=8, depths=[1, 1], num_heads=[1, 1], "
                    'frozen_stages=1, out_indices=(0, 1)')
    assert build(cfg).frozen_stages == 1


@pytest.mark.parametrize('kind, checkpoint', [('SwinTransformer', 'swinv2_tiny_patch4_window16_256.pth'),
                                              ('SwinTransformerV2', 'old.pth')])
def test_weights_that_the_model_names(kind, checkpoint, tmp_path, capsys):
    """Those of V1 are left out wherever they are named, the others become the backbone's."""
    code, cfg = run(tmp_path, f"type='{kind}'", "load_from = 'all.pth'", 'type="A", pretrained="old.pth"')
    v1 = kind == 'SwinTransformer'
    assert code == 0 and cfg.model.pretrained is None and cfg.load_from == (None if v1 else 'all.pth')
    assert Path(cfg.model.backbone.init_cfg.checkpoint).name == checkpoint and build(cfg)
    assert capsys.readouterr().out.count('weights of Swin V1 are for another attention') == 2 * v1


def test_init_cfg_with_mmengines_prefix(tmp_path):
    """It has no dot at its end there."""
    init = "dict(type='Pretrained', checkpoint='a.pth', prefix='backbone', map_location='cpu')"
    code, cfg = run(tmp_path, f"type='SwinTransformerV2', init_cfg={init}")
    assert code == 0 and build(cfg).init_cfg == dict(type='Pretrained', checkpoint='a.pth', prefix='backbone.')


def test_a_backbone_within_a_detector(tmp_path):
    code, cfg = migrate(tmp_path, "model = dict(type='A', detector=dict(pretrained='a.pth', "
                        "backbone=dict(type='SwinTransformer')))")
    assert code == 0 and cfg.model.detector.backbone.type == 'mmswinv2.SwinTransformerV2' and cfg.model.type == 'A'
    assert cfg.model.detector.pretrained is None


def test_video(tmp_path):
    code, cfg = run(tmp_path, "type='SwinTransformer3D', arch='tiny', pretrained='a.pth', pretrained2d=True, "
                    'patch_size=(4, 4, 4), window_size=(6, 7, 7), mlp_ratio=4., patch_norm=True')
    backbone = cfg.model.backbone
    assert code == 0 and backbone.type == 'mmswinv2.VideoSwinTransformerV2' and backbone.temporal_patch_size == 4
    assert backbone.window_size == backbone.pretrained_window_sizes == [[6, 16, 16]] * 3 + [[6, 8, 8]]
    assert backbone.out_indices == (3,)


@pytest.mark.skipif('mmpretrain' not in HOSTS, reason='needs mmpretrain')
def test_a_migrated_classifier_can_be_initialised(tmp_path, capsys):
    """mmpretrain's recipes set all LayerNorms to 1, which those within blocks must not be."""
    code, cfg = run(
        tmp_path, f"type='SwinTransformerV2', arch={SMALL}", "default_scope = 'mmpretrain'",
        "type='ImageClassifier', neck=dict(type='GlobalAveragePooling'), "
        "head=dict(type='LinearClsHead', num_classes=2, in_channels=64), "
        "init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02), "
        "dict(type='Constant', layer='LayerNorm', val=1., bias=0.)]")
    assert code == 0 and 'its model can be built' in capsys.readouterr().out
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    assert not model.backbone.layers[0].blocks[0].norm1.weight.any()


@pytest.mark.parametrize('source, message', [
    ('model = dict(', 'SRC must be a config that mmengine reads, got .*SyntaxError'),
    ('a = {{_base_.b}}', 'SRC must be a config that mmengine reads, got'),
    ("raise RuntimeError('why')", 'RuntimeError: why'), ('', 'SRC must have a model.backbone, got model=None'),
    ('model = 5', 'got model=5'), ("model = dict(backbone='x')", 'model.backbone.type must be .* got None'),
    ("model = dict(type='A', a=dict(type='SwinTransformer'), b=dict(type='SwinTransformer'))",
     'SRC must have one Swin backbone, got model.a, model.b'),
    ("model = dict(backbone=dict(type='SwinTransformer', depths=5))", 'TypeError'),
    ('from mmswinv2.models import SwinTransformerV2\nmodel = dict(backbone=dict(type=SwinTransformerV2))',
     'SRC must be in text style, whose types are names')])
def test_a_source_that_cannot_be_migrated_is_one_line(source, message, tmp_path, capsys):
    code, cfg = migrate(tmp_path, source)
    err = capsys.readouterr().err
    assert code == 2 and cfg is None and re.search(message, err) and err.count('\n') == 1


@pytest.mark.parametrize('options, more, message', [
    ("window_size='8'", '', "window_size must be .* got '8'"),
    ('', "custom_imports = dict(imports=['nowhere'])", 'Failed to import'),
    *(('', f"default_scope = '{PACKAGES[host]}'", "KeyError: 'A is not in") for host in HOSTS[:1])])
def test_what_cannot_be_built_is_said(options, more, message, tmp_path, capsys):
    code, _ = run(tmp_path, f"type='SwinTransformerV2', {options}", more)
    out, err = capsys.readouterr()
    assert code == 1 and 'can be built' not in out and re.search(f'dst.py cannot be used here: .*{message}', err)
    assert err.count('\n') == 1


def test_without_its_host_the_backbone_is_built(tmp_path, capsys):
    assert run(tmp_path, "type='SwinTransformerV2'", "default_scope = 'other'")[0] == 0
    assert "its model was not built, for default_scope='other' is no host" in capsys.readouterr().out


# of the recipes of hosts: what is not migrated, or not built here, and why
ELSEWHERE = {'glip_atss|grounding_dino': 'transformers|fairscale', 'simmim_swin': "got 'SimMIMSwinTransformer'",
             'custom_backbones': "got 'timm.swin_", '_swin_b_p6': 'arch.depths must be one to four',
             'w12_8xb128_in21k-192px': "KeyError: 'test_pipeline'", 'fcos_swinb_fpn': 'force_grad_on_level'}


def recipes(host):
    """Those with a Swin."""
    folder = Path(find_spec(PACKAGES[host]).submodule_search_locations[0]) / '.mim' / 'configs'
    return [path for path in sorted(folder.rglob('*.py')) if '_base_' not in path.parts and (
        'swin' in str(path.relative_to(folder)).lower() or 'SwinTransformer' in path.read_text())]


def check_recipe(path, tmp_path, capsys):
    """It is migrated and its model built, or the one line says why not."""
    code = migrate_config.main([str(path), str(tmp_path / '_'.join(path.parts[-3:]))])  # names come twice
    out, err = capsys.readouterr()
    if code == 0:
        built = 'its model can be built' in out or 'default_scope=None' in out  # a model without a runtime
        assert built and 'not taken over' not in out, path
    else:
        reasons = [reason for part, reason in ELSEWHERE.items() if re.search(part, str(path))]
        assert any(re.search(reason, err.splitlines()[-1]) for reason in reasons), (path, err)


FEW = ['mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', 'knet-s3_swin-t_upernet_8xb2-adamw-80k_ade20k-512x512.py',
       'mask2former_swin-t_8xb2-160k_ade20k-512x512.py', 'swin-base_16xb64_in1k-384px.py',
       'swinv2-base-w16_16xb64_in1k-256px.py', 'swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb.py']


@pytest.mark.parametrize('host', HOSTS)
def test_recipes_of_hosts(host, tmp_path, capsys):
    paths = [path for path in recipes(host) if path.name in FEW]
    assert paths
    for path in paths:
        check_recipe(path, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize('host', HOSTS)
def test_all_recipes_of_hosts(host, tmp_path, capsys, monkeypatch):
    if host == 'mmdet':  # a language model would be fetched
        monkeypatch.setattr('mmdet.models.language_models.bert.AutoTokenizer', None)
        monkeypatch.setattr('mmdet.models.dense_heads.atss_vlfusion_head.BertConfig', None)
    for path in recipes(host):
        check_recipe(path, tmp_path, capsys)


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
