"""Training begins with the recipe's batch, and stops at what is not finite before the weights are spoilt."""
import re

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.structures import BaseDataElement

from helpers import toy
from mmswinv2.engine import BatchSizeHook, NonFiniteHook

pytestmark = pytest.mark.mmengine


def run(folder, base=2, enable=False, hook=None, **options):
    """A run of a recipe for ``base`` images; the toy has two on its one process."""
    scaling = dict(enable=enable) if base is None else dict(base_batch_size=base, enable=enable)
    hook = dict(type='mmswinv2.BatchSizeHook', **(hook or {}))
    runner = toy.runner(folder, iters=2, hooks=[hook], cfg=dict(auto_scale_lr=scaling), auto_scale_lr=scaling,
                        **options)
    runner.train()
    return runner


@pytest.mark.parametrize('options', [
    dict(), dict(base=8, accumulate=4), dict(base=None), dict(base=8, batch_size=4, accumulate=2),
    dict(base=64, enable=True), dict(base=64, hook=dict(allow_other=True))])
def test_trains(options, tmp_path):
    runner = run(tmp_path, **options)
    rate = runner.optim_wrapper.optimizer.param_groups[0]['initial_lr']
    assert rate == pytest.approx(.01 * (2 / 64 if options.get('enable') else 1))


@pytest.mark.parametrize('options, found', [
    (dict(base=64), '2: 1 x 2 x 1 (processes x images on each x optim_wrapper.accumulative_counts). To fix this, '
                    'pass --cfg-options optim_wrapper.accumulative_counts=32;'),
    (dict(base=64, accumulate=16), '32: 1 x 2 x 16 (processes x images on each x optim_wrapper.accumulative_counts). '
                                   'To fix this, pass --cfg-options optim_wrapper.accumulative_counts=32;'),
    (dict(base=1), '2: 1 x 2 x 1 (processes x images on each x optim_wrapper.accumulative_counts). To fix this, '
                   'pass --cfg-options train_dataloader.batch_size and optim_wrapper.accumulative_counts;')])
def test_another_batch_is_refused(options, found, tmp_path):
    message = f'the batch must be {options["base"]} images, which learning rate and schedule are for, got {found}'
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, **options)
    assert not list(tmp_path.glob('*.pth'))


def test_scaling_does_not_count_what_is_accumulated(tmp_path):
    with pytest.raises(ValueError, match='auto_scale_lr.enable must be False where batches are accumulated.*the batch '
                                         r'is 8: 1 x 2 x 4 .*, the recipe is for 64'):
        run(tmp_path, base=64, enable=True, accumulate=4)


def test_processes_count(tmp_path, monkeypatch):
    monkeypatch.setattr('mmswinv2.engine.guards.dist.get_world_size', lambda: 8)
    run(tmp_path / 'a', base=64, accumulate=4)
    with pytest.raises(ValueError, match='got 16: 8 x 2 x 1 '):
        run(tmp_path / 'b', base=64)


class Batch(toy.Draws):
    """Samples with the names of images."""

    def __getitem__(self, index):
        sample = BaseDataElement(metainfo=dict(img_path=f'image_{index}.jpg'))
        return dict(super().__getitem__(index), data_samples=sample)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_a_nan_loss_names_iteration_and_images(accumulate, tmp_path):
    model = toy.Toy(poison=4 * accumulate + 1)
    runner = toy.runner(tmp_path, iters=8, model=model, accumulate=accumulate)
    runner._train_dataloader['dataset'] = Batch()
    weights = []
    model.register_forward_hook(lambda m, args, out: weights.append(m.layer.weight.detach().clone()))
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    images = ', '.join(f'image_{i}.jpg' for i in model.seen[-2:])
    assert str(error.value) == (
        f'training stops before the step of iteration 5: loss not finite (images: {images}). The weights are as they '
        f'were; the last checkpoint is {tmp_path / "iter_4.pth"}')
    assert torch.equal(model.layer.weight, weights[-1]) and model.layer.weight.isfinite().all()


def test_a_gradient_that_is_not_finite(tmp_path):
    class Cusp(toy.Toy):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            losses = super().forward(inputs, data_samples, mode)
            if self.calls == 3:
                losses['loss'] = losses['loss'] + (self.layer.bias - self.layer.bias.detach()).abs().sqrt().sum()
            return losses
    model = Cusp()
    message = r'step of iteration 3: the gradient of layer.bias not finite \(images: unknown\)'
    with pytest.raises(FloatingPointError, match=message):
        toy.runner(tmp_path, iters=8, model=model, clip_grad=None).train()
    assert all(p.isfinite().all() for p in model.parameters())


def test_without_the_hook_the_weights_are_spoilt(tmp_path):
    model = toy.Toy(poison=5)
    toy.runner(tmp_path, iters=6, model=model, non_finite=None).train()
    assert not model.layer.weight.isfinite().all()


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOnCPU(OptimWrapper):
    """A loss scale without a GPU; mmengine's wrapper asks for one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu')

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


@pytest.mark.parametrize('bad, stops', [(3, False), (4, True)])
def test_a_loss_scale_may_skip_some_steps(bad, stops, tmp_path):
    class Overflows(toy.Toy):
        def forward(self, *args, **kwargs):
            losses = super().forward(*args, **kwargs)
            return dict(losses, loss=losses['loss'] * float('inf')) if 2 <= self.calls < 2 + bad else losses
    model = Overflows()
    runner = toy.runner(tmp_path, iters=8, model=model, wrapper='ScaledOnCPU',
                        non_finite=dict(type='mmswinv2.NonFiniteHook', max_skipped=3))
    if stops:
        with pytest.raises(FloatingPointError, match=r'skipped 4 steps in a row \(max_skipped is 3\)'):
            runner.train()
    else:
        runner.train()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('hook, option, values, requirement', [
    (NonFiniteHook, 'max_skipped', [-1, 1.5, True, '3'], 'an integer >= 0'),
    (BatchSizeHook, 'allow_other', ['True', 1, None], 'a bool')])
def test_options_are_checked(hook, option, values, requirement):
    for value in values:
        with pytest.raises(ValueError, match=f'{option} must be {requirement}, got {value!r}'):
            hook(**{option: value})


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('how', ['load_from', 'resume', 'last', 'validation', 'test'])
def test_weights_that_are_not_finite_are_not_used(how, value, tmp_path):
    """Of a model without anything of ours in it: the hook is what the user asked for."""
    toy.runner(tmp_path, iters=2).train()
    path = tmp_path / 'iter_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['state_dict']['layer.bias'][1] = value
    torch.save(checkpoint, path)
    runner = toy.runner(tmp_path, iters=4, resume=how in ('resume', 'last'),
                        load_from=None if how == 'last' else str(path))
    what = how if how in ('validation', 'test') else 'training'
    with pytest.raises(ValueError, match=f'finite weights before (a )?{what}, got NaN .* in 1 of 2: layer.bias$'):
        if what == 'training':
            runner.train()
        else:
            runner.load_or_resume()
            runner.call_hook('before_val' if how == 'validation' else 'before_test')
    assert runner.model.calls == 0


def test_buffers_may_hold_infinities(tmp_path):
    class Masked(toy.Toy):
        def __init__(self):
            super().__init__()
            self.register_buffer('mask', torch.tensor(float('-inf')))
    toy.runner(tmp_path, iters=2, model=Masked()).train()
    model = Masked()
    toy.runner(tmp_path, iters=4, model=model, load_from=str(tmp_path / 'iter_2.pth'), resume=True).train()
    assert model.calls == 2
