"""Derivatives of the backbone beside ``backward()``: torch.func, forward mode, vmap; exact, or refused by name."""
import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from helpers.attention import FAST, asked, problem
from helpers.backbones import SMALL, randomize
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.attention import backends

pytestmark = pytest.mark.core


def model(backend, **options):
    options = dict(dict(window_size=4, out_indices=(1,), drop_path_rate=0., attn_backend=backend), **options)
    return randomize(SwinTransformerV2(SMALL, **options)).double()


@pytest.fixture
def images(rng):
    return torch.randn(3, 1, 3, 36, 28, generator=rng, dtype=torch.float64)  # ragged, several kinds of windows


@pytest.fixture
def cells_otherwise(monkeypatch):
    """``auto`` takes ``cells``, however small the attention maps."""
    monkeypatch.setattr(backends, 'EAGER_BYTES', 0)
    assert backends.choose(asked(*problem((4,), (2,)))).name == 'cells'


def dual(f, x, v):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent


FORWARD_MODE = dict(
    jvp=lambda f, x, v: func.jvp(f, (x,), (v,))[1],
    dual=dual,
    linearize=lambda f, x, v: func.linearize(f, x)[1](v),
    jacfwd=lambda f, x, v: func.jacfwd(lambda t: f(x + t * v))(x.new_zeros(())),
)


@pytest.mark.parametrize('how', FORWARD_MODE)
@pytest.mark.parametrize('backend', FAST)
def test_forward_mode_is_refused(backend, how, images):
    net = model(backend)
    with pytest.raises(RuntimeError, match="forward-mode .*attn_backend='eager'"):
        FORWARD_MODE[how](lambda x: net(x)[0], images[0], images[1])


@pytest.mark.parametrize('how', [how for how in FORWARD_MODE if how != 'linearize'])  # which imports the compiler
def test_auto_takes_forward_mode(how, images, cells_otherwise):
    tangents = [FORWARD_MODE[how](lambda t, net=model(backend): net(t)[0], images[0], images[1])
                for backend in ('auto', 'eager')]
    torch.testing.assert_close(*tangents, rtol=1e-12, atol=1e-12)


# linearize imports the compiler
@pytest.mark.parametrize('how', [pytest.param(how, marks=[pytest.mark.slow] * (how == 'linearize'))
                                 for how in FORWARD_MODE])
def test_forward_mode_of_eager_is_exact(how, images):
    """The tangent along v, probed by u, is the gradient of u's product along v."""
    net = model('eager')
    x, v = images[0].clone().requires_grad_(), images[1]
    out = net(x)[0]
    probe = torch.randn_like(out)
    grad, = torch.autograd.grad(out, x, probe)
    tangent = FORWARD_MODE[how](lambda t: net(t)[0], images[0], v)
    torch.testing.assert_close((tangent * probe).sum(), (grad * v).sum(), rtol=1e-9, atol=1e-9)


def weight_gradients(net, x):
    weights = {n: p.detach() for n, p in net.named_parameters()}
    return func.grad(lambda w: func.functional_call(net, w, x[0])[0].square().sum())(weights)


UNDER_FUNC = dict(
    grad=weight_gradients,
    grad_of_grad=lambda net, x: func.grad(func.grad(lambda t: net(x[0] * t)[0].sum()))(x.new_ones(())),
    hessian=lambda net, x: func.hessian(lambda t: net(x[0] * t)[0].sum())(x.new_ones(())),
    jacrev=lambda net, x: func.jacrev(lambda t: net(t)[0].mean((2, 3)))(x[0]),
    vmap=lambda net, x: func.vmap(net)(x)[0],
    vmap_of_grad=lambda net, x: func.vmap(func.grad(lambda t: net(t)[0].square().sum()))(x),
)


@pytest.mark.parametrize('how', UNDER_FUNC)
@pytest.mark.parametrize('backend', FAST)
def test_a_kernel_is_refused_under_torch_func(backend, how, images):
    with pytest.raises(RuntimeError, match=f"'{backend}' does not support this input: it .*attn_backend='eager' does"):
        UNDER_FUNC[how](model(backend), images)


@pytest.mark.parametrize('how', UNDER_FUNC)
def test_auto_takes_eager_under_torch_func(how, images, cells_otherwise):
    torch.testing.assert_close(*(UNDER_FUNC[how](model(backend), images) for backend in ('auto', 'eager')),
                               rtol=0, atol=0)


@pytest.mark.parametrize('options', [{}, dict(mask_padding=False)])
def test_func_grad_equals_backward(options, images):
    net = model('auto', **options)
    net(images[0])[0].square().sum().backward()
    grads = weight_gradients(net, images)
    for name, p in net.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-10, atol=1e-10)


def test_vmap_equals_one_after_another(images):
    net = model('auto')
    torch.testing.assert_close(func.vmap(net)(images)[0], torch.stack([net(x)[0] for x in images]))
    with torch.no_grad():
        grads = torch.stack([func.grad(lambda t: net(t)[0].square().sum())(x) for x in images])
        torch.testing.assert_close(UNDER_FUNC['vmap_of_grad'](net, images), grads)


def test_vmap_with_dropout_asks_for_the_kind_of_randomness(images):
    net = model('auto', attn_drop_rate=.5)
    with pytest.raises(RuntimeError, match='randomness'):
        func.vmap(net)(images)
    same = images[:1].expand_as(images)
    a, b, _ = func.vmap(net, randomness='different')(same)[0]
    assert not torch.equal(a, b)
    a, b, _ = func.vmap(net, randomness='same')(same)[0]
    torch.testing.assert_close(a, b)
