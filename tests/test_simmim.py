"""SimMIM beside a slow reference that is written from its description, pixel by pixel; checkpoints in other models."""
import math
import re

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from helpers.backbones import SMALL, randomize
from helpers.configs import LEAVES, build, load, register
from mmswinv2.core import SwinTransformerV2
from mmswinv2.engine import SwinOptimWrapperConstructor

pytestmark = pytest.mark.mmpretrain

STRIDE = 8  # of the last map of SMALL
TOKEN = 4  # pixels


@pytest.fixture(scope='module', autouse=True)
def mmpretrain():
    register('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def algorithm(norm_target=None, **options):
    """A small one, in float64, every parameter random."""
    from mmpretrain.registry import MODELS
    backbone = dict(dict(type='mmswinv2.SimMIMSwinTransformerV2', arch=SMALL, window_size=4, pretrained_window_sizes=4,
                         out_indices=(1,), drop_path_rate=0.), **options)
    model = MODELS.build(dict(
        type='mmswinv2.SimMIM', backbone=backbone, head=dict(type='mmswinv2.SimMIMHead', norm_target=norm_target),
        neck=dict(type='SimMIMLinearDecoder', in_channels=16, encoder_stride=STRIDE)))
    return randomize(model.double(), std=.2)


def samples(masks):
    from mmpretrain.structures import DataSample
    return [DataSample(mask=mask) for mask in masks]


def masks_of(number, cells, seed=0):
    """Masks (B, H, W) of cells of two tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(cells, cells, generator=generator) < .6).long().repeat_interleave(2, 0).repeat_interleave(2, 1)
            for _ in range(number)]


def slow_target(images, size):
    """Each pixel less the mean of its box, over the box's standard deviation."""
    out, half = torch.empty_like(images), size // 2
    for b, c, i, j in np.ndindex(*images.shape):
        box = images[b, c, max(0, i - half):i + half + 1, max(0, j - half):j + half + 1]
        mean = box.mean()
        out[b, c, i, j] = (images[b, c, i, j] - mean) / ((box - mean).square().sum() / (box.numel() - 1) + 1e-6).sqrt()
    return out


def slow_loss(model, images, masks, norm_target):
    """Tokens one by one, decoded by hand, pixels one by one."""
    net, loss, count = model.backbone, 0., 0
    tokens = net.patch_embed(images)
    rows = [[[net.mask_token[0, 0] if masks[b][i, j] else tokens[b, i, j] for j in range(tokens.shape[2])]
             for i in range(tokens.shape[1])] for b in range(len(images))]
    x = torch.stack([torch.stack([torch.stack(row) for row in image]) for image in rows])
    for stage in net.layers:
        for block in stage.blocks:
            x = block(x)
        x = x if stage.downsample is None else stage.downsample(x)
    x = net.norm1(x)  # (B, H, W, C)
    conv = model.neck.decoder[0]
    values = x @ conv.weight[:, :, 0, 0].T + conv.bias  # (B, H, W, 3 s s)
    target = images if norm_target is None else slow_target(images, norm_target)
    for b, i, j in np.ndindex(len(images), *images.shape[2:]):
        if masks[b][i // TOKEN, j // TOKEN]:
            count += 1
            for c in range(3):
                at = c * STRIDE**2 + (i % STRIDE) * STRIDE + j % STRIDE
                loss = loss + (target[b, c, i, j] - values[b, i // STRIDE, j // STRIDE, at]).abs()
    return loss / (torch.tensor(count) + 1e-5) / 3  # in float32


@pytest.mark.parametrize('norm_target', [None, 7])
def test_equals_the_slow_reference(norm_target, rng):
    model = algorithm(norm_target)
    images = torch.randn(2, 3, 32, 32, generator=rng, dtype=torch.float64)
    masks = masks_of(2, 4)
    loss = model.loss(images, samples(masks))['loss']
    expected = slow_loss(model, images, masks, norm_target)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    parameters = dict(model.named_parameters())
    grads, right = (torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                    for value in (loss, expected))
    for name, a, b in zip(parameters, grads, right):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)
    assert grads[list(parameters).index('backbone.mask_token')].abs().sum() > 0


@pytest.mark.parametrize('size, shape', [(47, (20, 50)), (3, (5, 8)), (9, (40, 13))])
def test_the_norm_target(size, shape, rng):
    from mmswinv2.classification.simmim import norm_target
    images = torch.randn(2, 2, *shape, generator=rng, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(norm_target(images, size), slow_target(images, size), rtol=1e-9, atol=1e-9)
    assert norm_target(images.float(), size).dtype == torch.float32
    flat = torch.full((1, 1, 9, 9), 1.7)
    assert norm_target(flat, size).abs().max() < 1e-6


@pytest.mark.parametrize('value, message', [(4, 'odd number of pixels, got 4'), (1, 'got 1'), (2.5, 'got 2.5')])
def test_options_of_the_head(value, message):
    from mmswinv2.classification import SimMIMHead
    with pytest.raises(ValueError, match=f'norm_target must be .*{message}'):
        SimMIMHead(norm_target=value)


def test_masks_are_those_of_the_release():
    """A share, rounded up, of the cells; the same for the same seed."""
    from mmpretrain.registry import TRANSFORMS
    step = load('mmpretrain/simmim_swinv2_b_192-w12.py').train_pipeline[3]
    made = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        made.append(TRANSFORMS.build(step)({})['mask'])
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    cells = made[0].reshape(6, 8, 6, 8).transpose(0, 2, 1, 3).reshape(36, 64)
    assert made[0].shape == (48, 48) and set(cells.sum(1)) == {0, 64} and (cells.sum(1) > 0).sum() == 22


def test_without_a_mask_it_is_the_backbone(rng):
    model = algorithm()
    x = torch.randn(1, 3, 32, 32, generator=rng, dtype=torch.float64)
    plain = SwinTransformerV2(SMALL, window_size=4, pretrained_window_sizes=4, out_indices=(1,)).double()
    plain.load_state_dict({k: v for k, v in model.backbone.state_dict().items() if k != 'mask_token'})
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.backbone(x)[0], plain.eval()(x)[0])
        assert torch.equal(model.backbone(x, torch.zeros(1, 8, 8))[0], plain(x)[0])
    with pytest.raises(ValueError, match=r'mask must have the shape \(B, H, W\) of the tokens, \(1, 8, 8\), got'):
        model.backbone(x, torch.zeros(1, 4, 4))


def test_reset_parameters():
    net = algorithm().backbone.float()
    net.to_empty(device='cpu')
    torch.nn.init.constant_(net.mask_token, torch.nan)
    net.reset_parameters()
    assert 0 < net.mask_token.abs().max() < .1 and not net.layers[0].blocks[0].norm1.weight.any()


def test_its_checkpoint_goes_into_other_models(tmp_path):
    """As it is: a classifier, a detector and a segmentor have the backbone by init_cfg, and it trains on."""
    from mmswinv2.models import SwinTransformerV2 as Registered
    model = algorithm()
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a.pth')
    released = {f'encoder.{k.replace("norm1.", "norm.") if k.startswith("norm1.") else k}': v
                for k, v in model.backbone.state_dict().items() if k != 'pretrained_window_sizes'}
    torch.save(dict(model={**released, 'decoder.0.weight': torch.zeros(1)}), tmp_path / 'b.pth')
    for outputs in ((1,), (0, 1)):
        for file in 'ab':
            net = Registered(SMALL, window_size=4, pretrained_window_sizes=4, out_indices=outputs,
                             init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / f'{file}.pth'))).double()
            net.init_weights()
            for name, value in net.state_dict().items():
                if name in model.backbone.state_dict():
                    assert torch.equal(value, model.backbone.state_dict()[name]), name
    again = algorithm()
    torch.nn.init.zeros_(again.backbone.mask_token)
    again.load_state_dict(torch.load(tmp_path / 'a.pth')['state_dict'])
    assert torch.equal(again.backbone.mask_token, model.backbone.mask_token)
    further = algorithm(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'b.pth')))
    further.backbone.init_weights()
    assert torch.equal(further.backbone.mask_token, model.backbone.mask_token)


def test_validation():
    """Each image's loss, and that of the mean of what is visible of it."""
    from mmswinv2.classification import MaskedL1
    model = algorithm().eval()
    images, masks = torch.randn(2, 3, 32, 32, dtype=torch.float64), masks_of(2, 4)
    with torch.no_grad():
        found = model(images, samples(masks), mode='predict')
        for i, sample in enumerate(found):
            torch.testing.assert_close(sample.masked_l1, model.loss(images[i:i + 1], samples(masks[i:i + 1]))['loss'])
            hidden = masks[i].repeat_interleave(4, 0).repeat_interleave(4, 1).bool()
            mean = images[i][:, ~hidden].mean(1, keepdim=True)
            torch.testing.assert_close(sample.mean_l1, (images[i][:, hidden] - mean).abs().mean(), rtol=1e-6, atol=1e-6)
    metric = MaskedL1()
    metric.process({}, [sample.to_dict() for sample in found])
    values = metric.compute_metrics(metric.results)
    assert values['masked_l1'] == pytest.approx(np.mean([float(s.masked_l1) for s in found]))
    assert values['mean_l1'] == pytest.approx(np.mean([float(s.mean_l1) for s in found]))


def test_weight_decay_of_the_pre_training():
    """The release looks for names of no decay under another prefix: cpb_mlp and logit_scale do decay."""
    wrapper = load('mmpretrain/simmim_swinv2_b_192-w12.py').optim_wrapper.to_dict()
    wrapper.pop('constructor')
    model = algorithm()
    groups = SwinOptimWrapperConstructor(wrapper, wrapper.pop('paramwise_cfg'))(model).optimizer.param_groups
    decayed = {id(p) for group in groups if group['weight_decay'] for p in group['params']}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert any('cpb_mlp' in name for name in names) and any('logit_scale' in name for name in names)
    assert 'backbone.mask_token' not in names and not any(name.endswith('bias') for name in names)
    with pytest.raises(ValueError, match='paramwise_cfg must have no key but .*no_decay, got'):
        SwinOptimWrapperConstructor(wrapper, dict(decay=1))


# one of each kind, whatever its size and window
KINDS = {re.sub(r'_[tsblhg](?=[_.])|w\d+|simmim-giant|\d{3}', '', name): name for name in LEAVES
         if name.startswith('mmpretrain/')}


@pytest.mark.parametrize('name', KINDS.values())
def test_one_reduced_step(name):
    """With a small architecture of as many stages and its own windows, at a small size."""
    cfg = load(name)
    arch = cfg.model.backbone.arch
    stages = 3 if isinstance(arch, dict) else 4
    cfg.model.backbone.update(arch=dict(embed_dims=8, depths=[1] * stages, num_heads=[1] * stages), init_cfg=None)
    width = 8 * 2**(stages - 1)
    part = cfg.model.neck if cfg.model.type == 'mmswinv2.SimMIM' else cfg.model.head
    part.in_channels = width
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        from mmpretrain.registry import MODELS
        model = MODELS.build(cfg.model)
    size = 64
    if cfg.model.type == 'mmswinv2.SimMIM':
        batch = samples([torch.randint(2, (size // 4, size // 4)) for _ in range(2)])
    else:
        from mmpretrain.structures import DataSample
        batch = [DataSample().set_gt_label(i) for i in range(2)]
    inputs = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=batch), True)
    loss = model(**data, mode='loss')['loss']
    loss.backward()
    assert math.isfinite(loss) and all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(dict(inputs=inputs, data_samples=batch)), mode='predict')
    assert len(found) == 2


def test_the_giant_of_simmim_is_not_the_papers_g():
    assert sum(p.numel() for p in build(load('mmpretrain/simmim_swinv2_simmim-giant_192-w12.py')).backbone.parameters()
               ) == pytest.approx(1061e6, rel=1e-3)
