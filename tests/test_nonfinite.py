"""A loss or gradient that is not finite stops training before the weights are spoilt."""
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from helpers import toy
from mmswinv2.engine import NonFiniteHook

pytestmark = pytest.mark.mmdet


class Batch(toy.Draws):
    """Samples with the names of images."""

    def __getitem__(self, index):
        sample = DetDataSample(metainfo=dict(img_path=f'image_{index}.jpg'))
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


@pytest.mark.parametrize('value', [-1, 1.5, True, '3'])
def test_max_skipped_is_checked(value):
    with pytest.raises(ValueError, match=f'max_skipped must be an integer >= 0, got {value!r}'):
        NonFiniteHook(max_skipped=value)


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
