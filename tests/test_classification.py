"""Released classifiers in mmpretrain's ImageClassifier, head and all; ImageNet-V2; what mmpretrain asks of us."""
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from PIL import Image

import convert_checkpoint
import plan_memory
from helpers.backbones import PLAIN, backbone, randomize
from helpers.configs import LEAVES, build, load, readme_example, register
from helpers.files import FILES, SILENT
from helpers.peer_files import head as head_of
from mmswinv2.core.weights import read_file
from mmswinv2.engine import ConvertCheckpointHook, SwinOptimWrapperConstructor
from mmswinv2.engine.loading import convert_checkpoint as convert
from mmswinv2.engine.repairs import leave_out_multimodal_models, transformers_has

pytestmark = pytest.mark.mmpretrain

CLASSES = 10  # of helpers.peer_files
WITH_HEAD = [name for name, (layout, *_) in FILES.items() if layout not in ('mmswinv2', 'simmim')
             and 'OpenMMLab' not in name]


@pytest.fixture(scope='module', autouse=True)
def mmpretrain():
    register('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def classifier(arch=PLAIN, classes=CLASSES, **options):
    """mmpretrain's, in float64; its backbone is in three stages."""
    from mmpretrain.registry import MODELS
    options = dict(dict(arch=arch, window_size=4, pretrained_window_sizes=4, out_indices=(2,), drop_path_rate=0.),
                   **options)
    return MODELS.build(dict(
        type='ImageClassifier', backbone=dict(type='mmswinv2.SwinTransformerV2', **options),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=32))).double().eval()


def written(name='microsoft'):
    """A file of another project, the backbone that it is of, and its head."""
    _, arch, write = FILES[name]
    net = backbone(arch, out_indices=(2,))
    state = net.state_dict()
    return write(state, arch['depths']), net, head_of(state)


def logits(net, head, x):
    """By hand: the norm of the last map, the mean over tokens, a linear layer."""
    return net(x)[-1].mean((2, 3)) @ head['weight'].T + head['bias']


def load_by_hook(model, checkpoint, path=None, **options):
    checkpoint = dict(checkpoint)
    ConvertCheckpointHook(**options).after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
    model.load_state_dict(checkpoint.get('state_dict', checkpoint), strict=True)


def load_by_function(model, checkpoint, path):
    torch.save(checkpoint, path)
    load_checkpoint(model, str(path), map_location='cpu', strict=True)


def load_by_init_cfg(model, checkpoint, path):
    torch.save(checkpoint, path)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model.init_weights()


def check_logits(model, expected, size=64):
    """Compares a classifier with a function of images."""
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('how', [load_by_hook, load_by_function, load_by_init_cfg])
@pytest.mark.parametrize('name', WITH_HEAD)
def test_a_file_of_any_project_gives_its_logits(name, how, tmp_path):
    checkpoint, net, head = written(name)
    model = classifier(FILES[name][1])
    how(model, checkpoint, tmp_path / 'a.pth')
    check_logits(model, lambda x: logits(net, head, x))


@pytest.mark.parametrize('name', [name for name in WITH_HEAD if FILES[name][0] not in SILENT])
def test_windows_may_be_changed(name):
    checkpoint, _, head = written(name)
    model = classifier(FILES[name][1], window_size=[6, 6, 3])
    load_by_hook(model, checkpoint)
    wider = backbone(FILES[name][1], out_indices=(2,), window_size=[6, 6, 3])
    check_logits(model, lambda x: logits(wider, head, x), size=96)


def test_a_run_of_its_own_is_read_back(tmp_path):
    model, again = randomize(classifier()), classifier()
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a.pth')
    load_by_hook(again, torch.load(tmp_path / 'a.pth'))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_heads_survive_conversion_both_ways(tmp_path):
    """From a classifier of mmpretrain to another project's file and back, the same bits; test_layouts has all pairs."""
    model = randomize(classifier())
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    assert convert_checkpoint.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), '--to', 'transformers']) == 0
    assert convert_checkpoint.main([str(tmp_path / 'b.pth'), str(tmp_path / 'c.pth'),
                                    '--pretrained-window-sizes', '4']) == 0
    for file in 'bc':
        again = classifier()
        load_by_hook(again, read_file(tmp_path / f'{file}.pth'))
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def rows_file(path, rows):
    path.write_text('\n'.join(map(str, rows)) + '\n')
    return str(path)


def test_rows_of_a_larger_head(tmp_path):
    """As 1,000 classes of ImageNet-22K's; by the hook and by the converter."""
    checkpoint, net, head = written()
    rows = [7, 0, 3]
    models = classifier(classes=3), classifier(classes=3)
    file = rows_file(tmp_path / 'map.txt', rows)
    load_by_hook(models[0], checkpoint, head_rows=file)
    torch.save(checkpoint, tmp_path / 'a.pth')
    assert convert_checkpoint.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), '--head-rows', file,
                                    '--pretrained-window-sizes', '4']) == 0
    load_by_hook(models[1], read_file(tmp_path / 'b.pth'))
    for model in models:
        check_logits(model, lambda x: logits(net, head, x)[:, rows])


@pytest.mark.parametrize('rows, message', [
    (None, r'head.fc.weight must have 3 rows, one per class of the model, got 10 .*head_rows=FILE.*map22kto1k'),
    ([1, 2], r'head_rows must have 3 row numbers, one per class of the model, got 2 in'),
    ([1, 2, 10], r'head_rows must be numbers below the 10 rows of head.fc.weight, got 10'),
    (['x', 1, 2], r"head_rows must be a file with one row number >= 0 per class, got 'x'"),
    ([], r"head_rows must be a file with one row number >= 0 per class, got 'nothing'"),
])
def test_a_head_of_other_classes_is_an_error(rows, message, tmp_path):
    checkpoint, _, _ = written()
    model = classifier(classes=3)
    file = None if rows is None else rows_file(tmp_path / 'map.txt', rows)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        load_by_hook(model, checkpoint, head_rows=file)


def test_rows_need_a_file_and_a_head(tmp_path, capsys):
    checkpoint, net, _ = written()
    model, file = classifier(classes=3), rows_file(tmp_path / 'map.txt', [1, 2, 3])
    with pytest.raises(FileNotFoundError, match='head_rows must be a file .* there is none at nowhere.txt'):
        load_by_hook(model, checkpoint, head_rows='nowhere.txt')
    with pytest.raises(ValueError, match='head_rows must be given for a checkpoint with a head, got one without'):
        load_by_hook(model, dict(net.state_dict()), head_rows=file)
    torch.save(dict(net.state_dict()), tmp_path / 'a.pth')
    assert convert_checkpoint.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), '--head-rows', file]) == 2
    assert '--head-rows must be given for a checkpoint with a head' in capsys.readouterr().err


def test_detectors_take_the_backbone_alone():
    checkpoint = dict(written()[0])
    convert(torch.nn.ModuleDict(dict(backbone=classifier().backbone)), checkpoint)
    assert all(k.startswith('backbone.') for k in checkpoint['state_dict'])


def test_weights_that_a_recipe_needs():
    hook = ConvertCheckpointHook(required=True)
    with pytest.raises(ValueError, match='load_from must name the weights that this recipe fine-tunes, got none'):
        hook.before_train(None)
    model = classifier()
    hook.after_load_checkpoint(SimpleNamespace(model=model), dict(state_dict=model.state_dict()))
    hook.before_train(None)
    for options, message in ((dict(head_rows=3), 'head_rows must name a file, got 3'),
                             (dict(required='True'), "required must be a bool, got 'True'")):
        with pytest.raises(ValueError, match=message):
            ConvertCheckpointHook(**options)


def test_a_models_init_cfg_must_not_reach_the_residual_norms():
    model = classifier()
    model.init_cfg = [dict(type='TruncNormal', layer='Linear'), dict(type='Constant', layer='LayerNorm', val=1.)]
    with pytest.raises(ValueError, match='init_cfg of the model must not set the LayerNorms .*, got 1 in layers.0.b'):
        model.init_weights()
    classifier(norm_placement='pre').init_weights()


def test_layer_decay_by_mmpretrains_own_constructor():
    """And by ours: the same rates, for names outside of the backbone too."""
    from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
    model = classifier(dict(embed_dims=8, depths=[2, 2, 1], num_heads=[1, 1, 1]))
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1., weight_decay=.1))
    theirs = LearningRateDecayOptimWrapperConstructor(cfg, dict(layer_decay_rate=.5))(model).optimizer
    ours = SwinOptimWrapperConstructor(cfg, dict(layer_decay_rate=.5))(model).optimizer
    rates = [{id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
             for optimizer in (theirs, ours)]
    assert rates[0] == rates[1]
    assert model.get_layer_depth('head.fc.weight') == model.get_layer_depth('backbone.norm2.weight')
    with pytest.raises(ValueError, match="param_name must be a parameter of the backbone under 'backbone.'"):
        model.get_layer_depth('backbone.other')


def test_the_planner_counts_a_classifiers_head():
    """21,841 logits of each image in float32, and little besides."""
    cfg = load('mmpretrain/swinv2_b_22k_192-w12.py')
    model = plan_memory.build(cfg)
    net, size = plan_memory.find_backbone(model), plan_memory.image_size(cfg)
    heads = plan_memory.count_heads(model, net, size, batch=64, objects=1)
    assert heads.left_out == () and heads.kept == pytest.approx(4 * 64 * 21841, rel=.1)


@pytest.mark.parametrize('merging, layers', [(True, 29), (False, 26)])
def test_numbers_of_layers(merging, layers):
    """Of SwinV2-B, with a patch merging as a layer, and as the release's fine-tuning counts: its blocks and two."""
    net = build(load('mmpretrain/swinv2_b_256-w8.py')).backbone
    options = dict(prefix='backbone.', merging_layers=merging)
    assert net.get_layer_depth('backbone.patch_embed.proj.weight', **options) == (0, layers)
    assert net.get_layer_depth('head.fc.weight', **options) == (layers - 1, layers)
    block = net.get_layer_depth('backbone.layers.0.blocks.1.mlp.fc1.weight', **options)[0]
    assert net.get_layer_depth('backbone.layers.0.downsample.reduction.weight', **options)[0] == block + merging
    assert net.get_layer_depth('backbone.layers.1.blocks.0.norm1.weight', **options)[0] == block + 1 + merging
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.))
    groups = SwinOptimWrapperConstructor(cfg, dict(layer_decay_rate=.75, merging_layers=merging))(
        classifier(dict(embed_dims=8, depths=[2, 2, 1], num_heads=[1, 1, 1]))).optimizer.param_groups
    assert min(group['lr'] for group in groups) == pytest.approx(.75**(6 + 2 * merging))


RECIPES = [name for name in LEAVES if name.startswith('mmpretrain/') and 'mini' not in name]


@pytest.mark.parametrize('name', RECIPES)
def test_recipes(name):
    """Gradients are clipped; SimMIM alone decays the position bias; what fine-tunes asks for a classifier."""
    cfg = load(name)
    assert cfg.optim_wrapper.clip_grad.max_norm in (5., 100.)
    cfg.model.backbone.arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    model = build(cfg)
    wrapper = cfg.optim_wrapper.to_dict()
    assert wrapper.pop('constructor') == 'mmswinv2.SwinOptimWrapperConstructor'
    optimizer = SwinOptimWrapperConstructor(wrapper, wrapper.pop('paramwise_cfg', None))(model).optimizer
    decayed = {id(p) for group in optimizer.param_groups if group['weight_decay'] for p in group['params']}
    for key, p in model.named_parameters():
        if p.ndim == 1 or 'mask_token' in key or 'relative_position_bias_table' in key:
            assert id(p) not in decayed, key
        elif 'cpb_mlp' in key or 'logit_scale' in key:
            assert (id(p) in decayed) == ('simmim_swinv2' in name), key
        else:
            assert id(p) in decayed, key
    assert cfg.train_cfg.type == 'mmswinv2.EpochBasedTrainLoop'
    if 'fine-tune' in name or '22kto1k' in name or 'swinv2_g_640' in name:
        assert cfg.default_hooks.convert_checkpoint.required


def test_other_classes_are_one_variable(tmp_path, monkeypatch):
    """The example of the README."""
    cfg = readme_example('mmpretrain', tmp_path)
    assert build(cfg).head.fc.out_features == 2 and cfg.model.backbone.init_cfg.checkpoint == 'FILE'
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    for split, name in itertools.product(('train', 'val'), ('cat', 'dog')):
        path = tmp_path / 'data/mine' / split / name / 'a.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((300, 310, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    from mmpretrain.registry import DATASETS
    for loader in cfg.train_dataloader, cfg.test_dataloader:
        data = DATASETS.build(loader.dataset)
        assert data.CLASSES == ('cat', 'dog') and data[1]['data_samples'].gt_label == 1
        assert data[0]['inputs'].shape == (3, 256, 256)


@pytest.fixture
def v2(tmp_path, monkeypatch):
    """ImageNet-V2 of twelve classes."""
    from mmswinv2.classification import ImageNetV2
    monkeypatch.setitem(ImageNetV2.METAINFO, 'classes', tuple(f'class {i}' for i in range(12)))
    for i in range(12):
        (tmp_path / str(i)).mkdir()
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / str(i) / f'{11 - i}.png')
    return tmp_path


def test_folders_of_imagenet_v2_are_numbers(v2):
    from mmpretrain.registry import DATASETS
    options = dict(data_root=str(v2), pipeline=[dict(type='LoadImageFromFile')], serialize_data=False)
    data = DATASETS.build(dict(options, type='mmswinv2.ImageNetV2'))
    assert [(int(data[i]['img'][0, 0, 0]), data[i]['gt_label']) for i in range(12)] == [(i, i) for i in range(12)]
    other = DATASETS.build(dict(options, type='CustomDataset'))
    wrong = sum(int(other[i]['img'][0, 0, 0]) != other[i]['gt_label'] for i in range(12))
    assert wrong == 10  # as text: 0, 1, 10, 11, 2, ...


@pytest.mark.parametrize('change, message', [
    (lambda root: (root / '12').mkdir(), 'folders 0 to 11 .*got 13 folders .*not one of them: 12'),
    (lambda root: (root / '3').rename(root / 'three'), 'not one of them: three'),
    (lambda root: [p.unlink() for p in (root / '3').iterdir()], r'images in each folder, got none in \[3\]'),
    (lambda root: [p.rename(root.parent / p.name) for p in list(root.iterdir())], 'got 0 folders .*missing: 0, 1, 2'),
])
def test_other_folders_are_an_error(v2, change, message):
    from mmswinv2.classification import ImageNetV2
    change(v2)
    with pytest.raises(ValueError, match=f'data_root must hold .*{message}'):
        ImageNetV2(str(v2), pipeline=[])


def test_imagenet_22k_needs_its_list(tmp_path):
    from mmswinv2.classification import ImageNet22K
    with pytest.raises(ValueError, match='ann_file must name a list of the images of ImageNet-22K'):
        ImageNet22K(str(tmp_path))
    (tmp_path / 'list.txt').write_text('a/b.jpg 21840\n')
    data = ImageNet22K(str(tmp_path), ann_file='list.txt', pipeline=[])
    assert data.get_data_info(0)['gt_label'] == 21840


def test_multimodal_models_are_left_out_where_they_cannot_be_imported(tmp_path, monkeypatch):
    from mmpretrain.utils import dependency
    package = tmp_path / 'transformers'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / 'modeling_utils.py').write_text('def apply_chunking_to_forward(): ...\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    assert transformers_has(('apply_chunking_to_forward',)) and not transformers_has(('prune_linear_layer',))
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    leave_out_multimodal_models()
    assert dependency.WITH_MULTIMODAL is False
    names = 'apply_chunking_to_forward find_pruneable_heads_and_indices prune_linear_layer'
    (package / 'modeling_utils.py').write_text(names)
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    leave_out_multimodal_models()
    assert dependency.WITH_MULTIMODAL is True
