"""The registered backbone: lookup, configs, pre-trained weights, the checkpoint's pre-training windows."""
import copy
from contextlib import contextmanager
from http.client import IncompleteRead
from urllib.error import URLError

import pytest
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
)

from helpers import peer_files, toy
from helpers.backbones import PLAIN, SMALL, randomize
from helpers.interpreter import run_python
from mmswinv2 import core
from mmswinv2.core.weights import weights_of
from mmswinv2.engine import loading
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

CONFIG = dict(type='mmswinv2.SwinTransformerV2', arch=SMALL, window_size=4, out_indices=(0, 1))


def test_found_with_and_without_prefix_from_every_scope():
    from mmdet.registry import MODELS as DET
    from mmseg.registry import MODELS as SEG
    for registry in (ROOT, DET, SEG):
        for name in ('mmswinv2.SwinTransformerV2', 'SwinTransformerV2'):
            assert type(registry.build(dict(CONFIG, type=name))) is SwinTransformerV2


OURS = 'mmswinv2.models.swin_transformer_v2'


@pytest.mark.parametrize('scope', ['mmengine', *(pytest.param(scope, marks=pytest.mark.slow)
                                                 for scope in ('mmdet', 'mmseg'))])
def test_the_prefix_alone_imports_the_plugin(scope):
    """And a class of the same name in another scope, as mmpretrain has one, changes nothing."""
    repair = '' if scope == 'mmengine' else (  # beside mmpretrain and transformers hosts cannot be imported otherwise
        'import contextlib\n'
        'with contextlib.suppress(ImportError):\n'
        '    import mmpretrain.utils.dependency as d; d.WITH_MULTIMODAL = False\n')
    result = run_python(f'{repair}import mmengine.registry as r\n'
                        f'from {scope}.registry import MODELS\n'
                        'print(type(MODELS.build(dict(type="mmswinv2.SwinTransformerV2", window_size=4))).__module__)\n'
                        '@r.Registry("model", parent=r.MODELS, scope="other").register_module()\n'
                        'class SwinTransformerV2: pass\n'
                        'print(*(MODELS.get(f"{scope}SwinTransformerV2").__module__ for scope in ("", "mmswinv2.",'
                        ' "other.")))')
    assert result.stdout.split()[-4:] == [OURS, OURS, OURS, '__main__'], result.stderr


def test_a_scope_of_its_own_and_hosts_that_are_imported_when_they_are_needed():
    """Our names need no prefix there. mmseg itself imports mmdet where that is installed: only one way can be seen."""
    result = run_python('import sys\n'
                        'from mmengine.registry import MODELS, DefaultScope\n'
                        'def show(name):\n'
                        '    print(MODELS.get(name).__module__, "mmdet" in sys.modules, "mmseg" in sys.modules)\n'
                        'with DefaultScope.overwrite_default_scope("mmswinv2"):\n'
                        '    for name in "SwinTransformerV2", "BaseDataPreprocessor":\n'
                        '        show(type(MODELS.build(dict(type=name))).__name__)\n'
                        'for name in "SingleRoIExtractor", "StreamingSegTTAModel":\n'
                        '    show(f"mmswinv2.{name}")\n')
    words = [line.split() for line in result.stdout.splitlines() if line.startswith('mm')]  # hosts print, too
    assert words == [[OURS, 'False', 'False'], ['mmengine.model.base_model.data_preprocessor', 'False', 'False'],
                     ['mmswinv2.detection.roi_heads', 'True', 'False'],
                     ['mmswinv2.segmentation.tta', 'True', 'True']], result.stderr


def test_core_and_a_clear_message_without_openmmlab():
    parts = ('models', 'engine', 'registry', 'engine.setup')
    result = run_python('import sys\n'
                        'class Block:\n'
                        '    def find_spec(self, name, path=None, target=None):\n'
                        '        if name.split(".")[0] in ("mmengine", "mmcv", "mmdet", "mmseg"):\n'
                        '            raise ModuleNotFoundError(name)\n'
                        'sys.meta_path.insert(0, Block())\n'
                        'import importlib.util\n'
                        'real = importlib.util.find_spec\n'
                        'hosts = ("mmengine", "mmdet", "mmseg")\n'
                        'importlib.util.find_spec = lambda n, p=None: None if n in hosts else real(n, p)\n'
                        'import mmswinv2\n'
                        'print(mmswinv2.core.SwinTransformerV2.__name__)\n'
                        f'for part in {parts}:\n'
                        '    try:\n        importlib.import_module(f"mmswinv2.{part}")\n'
                        '    except ImportError as e:\n        print(e)')
    name, *lines = result.stdout.splitlines()
    assert name == 'SwinTransformerV2', result.stderr
    for part, said in zip(parts, lines, strict=True):
        assert f'mmswinv2.{part.partition(".")[0]} needs mmengine, which is not installed' in said
        assert 'mmswinv2-plugin[classic]' in said


def test_a_typo_is_a_type_error():
    with pytest.raises(TypeError, match='windw_size'):
        ROOT.build(dict(CONFIG, windw_size=8))


def test_is_the_core_with_the_same_names():
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1))
    assert list(net.state_dict()) == list(core.SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).state_dict())
    assert net.window_sizes == ((4, 4), (4, 4)) and net.init_cfg is None and net.train() is net


@pytest.mark.parametrize('init_cfg', [
    dict(type='TruncNormal', layer='Linear'), dict(type='Pretrained'), 'weights.pth',
    dict(type='Pretrained', checkpoint='a.pth', revise_keys=[]),
    dict(type='Pretrained', checkpoint='a.pth', adapt_in_channels='max'), [dict(type='TruncNormal', layer='Linear')]
])
def test_other_init_cfg_is_refused(init_cfg):
    with pytest.raises(ValueError, match='init_cfg must be dict.*one of sum, mean, repeat, got .*_delete_=True'):
        SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), init_cfg=init_cfg)


def source(**options):
    return randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), **options))


def target(path, prefix=None, **options):
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **({} if prefix is None else dict(prefix=prefix)))
    return SwinTransformerV2(SMALL, **dict(dict(window_size=4, out_indices=(0, 1)), **options), init_cfg=init_cfg)


@contextmanager
def refused(model, message):
    """An error that leaves a model as it was."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        yield
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('layers.0.blocks.0.attn.qkv.weight'), r'missing: 1 \(layers.0.blocks.0.attn.qkv.weight\)'),
    (lambda s: s.update({'layers.0.blocks.0.attn.rpe': torch.zeros(1)}), 'layout of mmswinv2; not known: 1 '),
    (lambda s: s.update({'patch_embed.norm.bias': torch.zeros(7)}), r'of another shape: 1 \(patch_embed.norm.bias'),
    (lambda s: s.pop('pretrained_window_sizes'), 'set pretrained_window_sizes in the config'),
    (lambda s: s.clear(), 'checkpoint must hold a state dict'),
])
def test_pretrained_weights_that_do_not_fit_are_an_error(change, message, tmp_path):
    state = source().state_dict()
    change(state)
    torch.save(dict(state_dict=dict(state)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=message):
        target(tmp_path / 'a.pth').init_weights()


def test_pretrained_with_a_wrong_prefix_or_file_is_an_error(tmp_path):
    torch.save(source().state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="prefix must be one .* got 'encoder.'"):
        target(tmp_path / 'a.pth', 'encoder').init_weights()
    (tmp_path / 'b.pth').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match=r'weights_only=True\), got .*b.pth'):
        target(tmp_path / 'b.pth').init_weights()
    with pytest.raises(FileNotFoundError):
        target(tmp_path / 'c.pth').init_weights()


def test_init_weights_inside_a_detector_loads(tmp_path):
    from mmengine.model import BaseModule
    net = source()
    torch.save(net.state_dict(), tmp_path / 'a.pth')
    detector = BaseModule()
    detector.backbone = target(tmp_path / 'a.pth')
    detector.init_weights()
    torch.testing.assert_close(detector.backbone.patch_embed.proj.weight, net.patch_embed.proj.weight)


def test_the_checkpoint_says_its_pretraining_windows(tmp_path):
    net = source(pretrained_window_sizes=[6, (3, 5)])
    expected = torch.tensor([[6, 6], [3, 5]])
    assert torch.equal(net.state_dict()['pretrained_window_sizes'], expected)
    save_checkpoint(dict(state_dict=get_state_dict(net)), str(tmp_path / 'a.pth'))
    other = SwinTransformerV2(SMALL, window_size=8, out_indices=(0, 1), pretrained_window_sizes=[6, (3, 5)])
    load_checkpoint(other, str(tmp_path / 'a.pth'), strict=True)
    torch.testing.assert_close(other.norm0.weight, net.norm0.weight)


@pytest.mark.parametrize('load', [lambda net, s: net.load_state_dict(s),
                                  lambda net, s: net.load_state_dict(s, strict=False), load_state_dict])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_contradictory_windows_are_an_error_however_it_is_loaded(load, prefix):
    state = {prefix + k: v for k, v in source(pretrained_window_sizes=[6, (3, 5)]).state_dict().items()}
    net = source()
    if prefix:
        net = torch.nn.ModuleDict(dict(backbone=net))
    with refused(net, r'\[6, \(3, 5\)\], got \[4, 4\]; set pretrained_window_sizes=\[6, \(3, 5\)\]'):
        load(net, state)


def test_a_checkpoint_without_windows_needs_a_config_that_says_them():
    state = source().state_dict()
    del state['pretrained_window_sizes']
    source(pretrained_window_sizes=4).load_state_dict(state)
    with pytest.raises(RuntimeError, match='pretrained_window_sizes'):
        source().load_state_dict(state)


def test_windows_survive_the_meta_device():
    with torch.device('meta'):
        net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1))
    net.to_empty(device='cpu')
    assert net.state_dict()['pretrained_window_sizes'].tolist() == [[4, 4], [4, 4]]


class Detector(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.neck = torch.nn.Linear(2, 2)
        self.backbone = SwinTransformerV2(PLAIN, **dict(dict(
            window_size=4, out_indices=(0, 1, 2), pretrained_window_sizes=4), **options))


LOAD_FROM = dict(
    microsoft=peer_files.microsoft, simmim=peer_files.simmim, timm=peer_files.timm, torchvision=peer_files.torchvision,
    transformers=peer_files.transformers, mmpretrain=peer_files.mmpretrain,
    own=lambda state, depths: dict(state), run=lambda state, depths: dict(state_dict=dict(state), meta=dict(epoch=1)),
    detector=lambda state, depths: dict(state_dict={f'backbone.{k}': v for k, v in state.items()}, meta=dict(epoch=3)))
PEERS = sorted(set(LOAD_FROM) - {'own', 'run', 'detector'})


@pytest.fixture
def load_from(tmp_path):
    """What a runner does with ``load_from`` and a model."""
    def load(model, path):
        toy.runner(tmp_path / 'work', iters=2, model=model).load_checkpoint(str(path))
    return load


@pytest.fixture
def write(tmp_path):
    """A function that writes weights in a layout; it returns them, in the release's names, and the file."""
    def written(layout, *args):
        state = randomize(Detector().backbone).state_dict()
        torch.save(LOAD_FROM[layout](state, PLAIN['depths'], *args), tmp_path / 'a.pth')
        return state, str(tmp_path / 'a.pth')
    return written


def check_loaded(backbone, state, layout):
    """A classifier has the last norm only."""
    fresh = ('norm0.', 'norm1.') if layout in PEERS else ()
    for k, v in backbone.state_dict().items():
        torch.testing.assert_close(v, torch.full_like(v, float(k.endswith('weight'))) if k.startswith(fresh) and fresh
                                   else state[k])


@pytest.mark.parametrize('layout', sorted(LOAD_FROM))
def test_load_from_takes_each_layout(layout, write, load_from):
    state, file = write(layout)
    detector = Detector()
    neck = detector.neck.weight.clone()
    load_from(detector, file)
    check_loaded(detector.backbone, state, layout)
    assert torch.equal(detector.neck.weight, neck)


@pytest.mark.parametrize('layout', sorted(LOAD_FROM))
def test_pretrained_takes_each_layout(layout, write):
    state, file = write(layout)
    net = SwinTransformerV2(PLAIN, window_size=8, pretrained_window_sizes=4, out_indices=(0, 1, 2),
                            init_cfg=dict(type='Pretrained', checkpoint=file))
    assert not torch.equal(net.norm2.bias, state['norm2.bias'])
    net.init_weights()
    check_loaded(net, state, layout)


@pytest.mark.parametrize('layout', PEERS)
def test_a_whole_model_may_have_its_backbone_in_each_layout(layout, write):
    """Whoever loads it, as ``init_detector`` does without a runner."""
    state, file = write(layout)
    weights, *_ = weights_of(torch.load(file))
    torch.save(dict(state_dict={**{f'backbone.{k}': v for k, v in weights.items()}, 'neck.weight': torch.ones(2, 2)}),
               file)
    detector = Detector()
    load_checkpoint(detector, file, map_location='cpu')
    check_loaded(detector.backbone, state, layout)
    assert (detector.neck.weight == 1).all()


@pytest.mark.parametrize('layout', sorted({'own', *PEERS} - {'mmpretrain'}))  # of which backbones are a part
def test_without_a_runner_a_file_of_a_backbone_alone_is_loaded_into_it(layout, write):
    """Into the whole model it is an error that says so: mmengine would only log it and leave random weights."""
    state, file = write(layout)
    detector = Detector()
    with refused(detector, r"SwinTransformerV2 \(backbone\): checkpoint must hold weights under 'backbone.', got none, "
                 r"and \d+ names .*init_cfg=dict.*load_from=FILE with default_hooks.convert_checkpoint=.*"
                 r'load_checkpoint\(model.backbone, FILE\)'):
        load_checkpoint(detector, file, map_location='cpu')
    load_checkpoint(detector.backbone, file, map_location='cpu')
    check_loaded(detector.backbone, state, layout)


def test_loaded_by_itself_a_backbone_takes_no_others_weights():
    net = Detector().backbone
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for state in {'fc.weight': torch.zeros(2, 2)}, {**before, 'gamma': torch.zeros(1)}:
        with pytest.raises(ValueError, match='no patch embedding among 1 names|not known: 1 '):
            net.load_state_dict(state, strict=False)
    other = SwinTransformerV2(dict(PLAIN, embed_dims=16), window_size=4, out_indices=(0, 1, 2))
    with pytest.raises(ValueError, match='arch.*embed_dims=8, .*got one with arch.*embed_dims=16,'):
        load_state_dict(net, other.state_dict())  # mmengine's, which would only log it
    assert net.load_state_dict({'norm0.bias': torch.ones(8)}, strict=False).missing_keys  # torch's own rules
    assert (net.norm0.bias == 1).all()


def test_averaged_weights_begin_with_what_is_loaded(tmp_path, write):
    """EMAHook takes ``state_dict`` from what was read, which a file of a backbone alone need not have."""
    state, file = write('timm')
    run = toy.runner(tmp_path / 'work', iters=2, model=Detector(), hooks=[dict(type='EMAHook')])
    ema, = (h for h in run.hooks if type(h).__name__ == 'EMAHook')
    ema.before_run(run)
    run.load_checkpoint(file)
    check_loaded(ema.ema_model.module.backbone, state, 'timm')


@pytest.mark.parametrize('wrap', [
    lambda s: dict(model_ema=s), lambda s: dict(ema_state_dict={f'module.{k}': v for k, v in s.items()}),
    lambda s: dict(state_dict={f'_orig_mod.module.{k}': v for k, v in s.items()}),
    lambda s: dict(state_dict={k.replace('.attn.', '._checkpoint_wrapped_module.attn.'): v for k, v in s.items()}),
    lambda s: {k.replace('.weight', '._fsdp_wrapped_module.weight'): v for k, v in s.items()},
])
def test_load_from_takes_off_what_wraps_a_model(wrap, tmp_path, load_from):
    """From all of it, not the backbone alone."""
    state = {k: v if k == 'backbone.pretrained_window_sizes' else v + 1 for k, v in Detector().state_dict().items()}
    torch.save(wrap(state), tmp_path / 'a.pth')
    detector = Detector()
    load_from(detector, tmp_path / 'a.pth')
    loaded = detector.state_dict()
    assert [k for k, v in state.items() if not torch.equal(v, loaded[k])] == []


def test_names_of_wrappers_that_the_model_has_stay():
    detector = Detector()
    detector.neck = torch.nn.ModuleDict(dict(_orig_mod=torch.nn.Linear(2, 2)))
    own = detector.state_dict()
    for state in (own, {f'module.{k}': v for k, v in own.items()}):
        checkpoint = dict(state_dict=state)
        loading.convert_checkpoint(detector, checkpoint)
        assert checkpoint['state_dict'].keys() == own.keys()


def test_two_backbones_take_one_file(write, load_from):
    detector = Detector()
    detector.other = Detector().backbone
    state, file = write('own')
    load_from(detector, file)
    for net in detector.backbone, detector.other:
        check_loaded(net, state, 'own')


def test_a_backbone_further_down_and_one_in_a_wrapper():
    state = randomize(Detector().backbone).state_dict()
    bare = peer_files.timm(state, PLAIN['depths'])
    outer = torch.nn.ModuleDict(dict(detector=Detector()))
    with pytest.raises(ValueError, match=r"weights under 'detector.backbone.', got none, and"):
        load_state_dict(outer, bare)
    load_state_dict(outer, {f'detector.backbone.{k}': v for k, v in bare.items()})
    check_loaded(outer.detector.backbone, state, 'timm')
    checkpoint = dict(model={f'module.{k}': v for k, v in bare.items()}, meta=dict(epoch=1))
    loading.convert_checkpoint(torch.nn.DataParallel(Detector()), checkpoint)
    assert checkpoint.keys() == {'state_dict', 'meta'}
    assert all(torch.equal(v, state[k.removeprefix('backbone.')]) for k, v in checkpoint['state_dict'].items())
    assert 'backbone.norm2.weight' in checkpoint['state_dict']


def test_load_from_safetensors_and_what_it_says(tmp_path, monkeypatch, load_from):
    from safetensors.torch import save_file
    state = randomize(Detector().backbone).state_dict()
    file = {k: v.clone() for k, v in peer_files.transformers(state, PLAIN['depths']).items()}
    save_file(file, tmp_path / 'a.safetensors')
    for name in ('a.safetensors', 'https://x.org/a.safetensors', 'a.pth'):
        assert CheckpointLoader._get_checkpoint_loader(name).__module__ == 'mmswinv2.engine.loading'
    lines = []
    monkeypatch.setattr(loading, 'print_log', lambda text, logger: lines.append(text))
    detector = Detector()
    load_from(detector, tmp_path / 'a.safetensors')
    torch.testing.assert_close(detector.backbone.norm2.weight, state['norm2.weight'])
    said, = lines
    assert f'SwinTransformerV2 (backbone): loading {len(state) - 5} of {len(state)} entries in the layout of ' \
        'transformers' in said
    assert 'left as initialised: norm0.weight, norm0.bias, norm1.weight, norm1.bias' in said
    assert 'classification head: 2' in said and 'outside of the backbone' not in said


@pytest.mark.parametrize('change, message', [
    (lambda s: {'backbone.conv1.weight': torch.zeros(1), 'neck.weight': torch.zeros(2, 2)},
     r'SwinTransformerV2 \(backbone\): .* no patch embedding among 1 names \(conv1.weight\)'),
    (lambda s: {'fc.weight': torch.zeros(2, 2), 'fc.bias': torch.zeros(2)}, 'no patch embedding among 2 names'),
    (lambda s: {f'backbone.{k}': v for k, v in s.items() if 'blocks.0' not in k}, 'missing: '),
    (lambda s: {f'backbone.{k}': v for k, v in s.items() if k != 'layers.0.blocks.0.attn.v_bias'},
     r'missing: 1 \(layers.0.blocks.0.attn.v_bias\)'),
    (lambda s: {f'backbone.{k}x': v for k, v in s.items()}, 'no patch embedding'),
    (lambda s: {'neck.weight': torch.zeros(2, 2),  # something of the model, and a backbone elsewhere that does not fit
                **{f'bb.{k}': v for k, v in s.items() if 'logit' not in k}}, 'missing: '),
    (lambda s: {**{f'backbone.{k}': v for k, v in s.items()}, 'backbone.gamma': torch.zeros(1)},
     r'not known: 1 \(gamma'),
])
def test_load_from_of_what_does_not_fit_is_an_error(change, message, tmp_path, load_from):
    """mmengine itself would only log it and go on with random weights; without a runner it is one too."""
    torch.save(dict(state_dict=change(randomize(Detector().backbone).state_dict())), tmp_path / 'a.pth')
    detector = Detector()
    with refused(detector, message):
        load_from(detector, tmp_path / 'a.pth')
    with refused(detector.backbone, f'{message}|got none, and '):
        load_checkpoint(detector, str(tmp_path / 'a.pth'), map_location='cpu')


def test_other_parts_leave_the_backbone(tmp_path, load_from):
    state = {'neck.weight': torch.zeros(2, 2)}
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    detector, other = Detector(), Detector()
    before = {k: v.clone() for k, v in detector.backbone.state_dict().items()}
    load_from(detector, tmp_path / 'a.pth')
    assert 'backbone.norm0.weight' in other.load_state_dict(state, strict=False).missing_keys
    assert not detector.neck.weight.any() and not other.neck.weight.any()
    assert all(torch.equal(v, before[k]) for k, v in detector.backbone.state_dict().items())


def test_load_from_needs_the_windows_of_a_file_without_them(write, load_from):
    with pytest.raises(ValueError, match='set pretrained_window_sizes in the config'):
        load_from(Detector(pretrained_window_sizes=None), write('timm')[1])
    with pytest.raises(ValueError, match=r'pre-trained with, \[12, 12, 6\], got \[4, 4, 4\]'):
        load_from(Detector(), write('microsoft', [16, 16, 8], [12, 12, 6])[1])


def test_a_copied_detector_loads_too():
    """Averaged models are deep copies."""
    state = randomize(Detector().backbone).state_dict()
    copied = copy.deepcopy(Detector())
    load_state_dict(copied, {f'backbone.{k}': v for k, v in peer_files.timm(state, PLAIN['depths']).items()})
    torch.testing.assert_close(copied.backbone.norm2.weight, state['norm2.weight'])


def test_a_state_dict_holds_weights_and_windows_alone():
    """No derived buffer is saved, or broadcast by DDP."""
    net = SwinTransformerV2(dict(PLAIN, extra_norm_every_n_blocks=2), window_size=4, out_indices=(0, 1, 2))
    assert set(net.state_dict()) == {n for n, _ in net.named_parameters()} | {'pretrained_window_sizes'}
    assert list(net.buffers()) == []


@pytest.mark.parametrize('kind, channels', [
    (SwinTransformerV2, 1), (SwinTransformerV2, 4), (VideoSwinTransformerV2, 2)])
def test_pretrained_for_other_channels(kind, channels, tmp_path):
    state = source().state_dict()
    torch.save(dict(state), tmp_path / 'a.pth')
    options = dict(arch=SMALL, window_size=4, pretrained_window_sizes=4, out_indices=(0, 1), in_channels=channels)
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=rf"init_cfg: .*a.pth: .*in_channels={channels}.*adapt_in_channels='sum'"):
        kind(**options, init_cfg=init_cfg).init_weights()
    net = kind(**options, init_cfg=dict(init_cfg, adapt_in_channels='mean'))
    net.init_weights()
    weight, rgb = net.patch_embed.proj.weight, state['patch_embed.proj.weight']
    weight = weight.sum(2) if weight.ndim == 5 else weight  # of a clip's frames
    torch.testing.assert_close(weight[:, :3], rgb if channels > 3 else rgb.mean(1, keepdim=True).repeat(
        1, channels, 1, 1))
    assert not weight[:, 3:].any()
    net = kind(**dict(options, in_channels=3), init_cfg=dict(init_cfg, adapt_in_channels='mean'))
    net.init_weights()  # nothing to do
    torch.testing.assert_close(net.norm1.weight, state['norm1.weight'])


@pytest.mark.parametrize('name', ['torchvision://resnet50', 'open-mmlab://detectron2/resnet50_caffe'])
def test_weights_inherited_from_another_backbone_are_named(name):
    with pytest.raises(ValueError, match=f'begins with http:// or https://, got {name}; .* _delete_=True'):
        target(name).init_weights()


URL = 'https://example.org/models/w.pth?download=1'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Where torch.hub keeps files."""
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    return tmp_path / 'checkpoints' / 'w.pth'


@pytest.fixture(params=['init_cfg', 'load_from'])
def load_url(request):
    """Both ways to name a URL."""
    from mmswinv2.engine import setup  # noqa: F401
    return dict(init_cfg=lambda: target(URL).init_weights(),
                load_from=lambda: CheckpointLoader.load_checkpoint(URL))[request.param]


@pytest.mark.parametrize('local_rank', [0, 1])
@pytest.mark.parametrize('error', [URLError('no route'), TimeoutError('timed out'), IncompleteRead(b'')])
def test_weights_that_cannot_be_fetched(error, local_rank, hub, load_url, monkeypatch):
    """The processes that do not fetch do not wait for ever for the one that does."""
    def download(url, path):
        raise error
    barriers = []
    monkeypatch.setattr('torch.hub.download_url_to_file', download)
    monkeypatch.setattr('mmengine.dist.barrier', lambda: barriers.append(1))
    monkeypatch.setenv('LOCAL_RANK', str(local_rank))
    with pytest.raises(ValueError) as raised:
        load_url()
    for part in (URL, str(hub), 'init_cfg.checkpoint=FILE', 'load_from=FILE', *[type(error).__name__][local_rank:]):
        assert part in str(raised.value)
    assert barriers == [1]


@pytest.mark.parametrize('contents', [b'', b'<!DOCTYPE html><html>sign in</html>', None])
def test_a_file_that_was_fetched_in_part(contents, hub, load_url):
    hub.parent.mkdir()
    torch.save(dict(source().state_dict()), hub)
    hub.write_bytes(hub.read_bytes()[:-500] if contents is None else contents)
    with pytest.raises(ValueError, match='must be a whole file') as error:
        load_url()
    for part in (URL, str(hub), 'remove it', 'init_cfg.checkpoint=FILE'):
        assert part in str(error.value)


@pytest.mark.parametrize('rank, local_rank, downloads', [(0, 0, True), (1, 1, False), (8, 0, True), (9, 1, False)])
def test_weights_are_fetched_once_per_node(rank, local_rank, downloads, hub, monkeypatch):
    """Nodes need not share a home: the first process of each fetches, the others wait for it."""
    net, calls = source(), []

    def download(url, path):
        calls.append('download')
        torch.save(dict(net.state_dict()), path)
    barrier = (lambda: calls.append('barrier')) if downloads else lambda: download('', str(hub))
    hub.parent.mkdir()
    monkeypatch.setenv('LOCAL_RANK', str(local_rank))
    monkeypatch.setattr('torch.hub.download_url_to_file', download)
    monkeypatch.setattr('mmengine.dist.get_rank', lambda *group: rank)
    monkeypatch.setattr('mmengine.dist.barrier', barrier)
    other = target(URL)
    other.init_weights()
    assert calls == (['download', 'barrier'] if downloads else ['download'])
    assert torch.equal(other.patch_embed.proj.weight, net.patch_embed.proj.weight)
