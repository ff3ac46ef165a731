"""Counts what neck and heads of a model keep for the backward pass, by running them on the meta device.

Maps of the backbone's shapes pass through the modules as in the model's ``loss``. Each new storage is counted as long
as something refers to it; nothing is computed. The number of RoIs is the number that the samplers of ``train_cfg``
take. The count includes the IoU of every anchor with every object, and mmdet's mask targets: a float32 mask of the
image's size for each positive RoI (``BitmapMasks.crop_and_resize``). It leaves out targets and losses of boxes, which
are under 0.2 GiB at 1536 px, and proposals. Of DETR's kin (DINO, Mask2Former) it counts the whole transformer with its
queries, those for denoising too, and leaves out the matching and the losses, at most some 12,544 points of a mask for
each object.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from mmswinv2.core import SwinTransformerV2

from .counting import LiveBytes


@dataclass(frozen=True)
class HeadsMemory:
    """What neck and heads take, in bytes."""

    kept: int  # at the end of the forward pass
    peak: int  # the largest, before the backward pass reaches the neck's first module
    neck_peak: int  # the largest from then on
    left_out: tuple[str, ...] = ()  # modules with weights, of which it is not known how the model calls them


class _FusedAttention(torch.autograd.Function):
    """Keeps the same as a fused kernel: queries, keys, values, the result and a number per row."""

    @staticmethod
    def forward(ctx, q, k, v):
        """Shapes only."""
        out = torch.empty_like(v)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx, grad):
        """Shapes only."""
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _DeformableAttention(torch.autograd.Function):
    """Keeps the same as mmcv's kernel: values, locations and weights; mmcv has only the formula for other devices."""

    @staticmethod
    def forward(ctx, value, spatial_shapes, locations, weights):
        """Shapes only."""
        ctx.save_for_backward(value, locations, weights)
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    @staticmethod
    def backward(ctx, grad):
        """Shapes only."""
        value, locations, weights = map(torch.empty_like, ctx.saved_tensors)
        return value, None, locations, weights


class _AsOnGPUs(TorchFunctionMode):
    """Replaces operations by those that keep the same as on GPUs.

    Attention: the meta device has only the formula, which keeps whole maps. Batch norm of one value per channel, which
    is valid when several GPUs share it: the running statistics are used. Sizes of maps that a model keeps as tensors,
    and objects, are on the CPU, where they have values, and go to the meta device where they meet a map. Nothing is
    found where a model looks for values in a map.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        if func is F.batch_norm and args[0].numel() == args[0].shape[1]:
            kwargs = dict(kwargs, training=False)
        if func is torch._shape_as_tensor:
            return torch.tensor(args[0].shape, device='cpu')
        if func is Tensor.to and args[0].device.type == 'cpu':
            return args[0]
        if func is torch.where and len(args) == 1:
            return tuple(torch.empty(0, dtype=torch.long) for _ in range(args[0].ndim))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if {x.device.type for x in tensors} == {'cpu', 'meta'} and func is not Tensor.__getitem__:
            args, kwargs = tree_map(_to_meta, (args, kwargs))
        return func(*args, **kwargs)


def _to_meta(x: object) -> object:
    if isinstance(x, Tensor) and x.device.type == 'cpu' and x.ndim:
        return torch.empty_like(x, device='meta')
    return x


def heads_memory(model: nn.Module, maps: Sequence[Sequence[int]], image: tuple[int, ...], *,
                 objects: int = 100) -> HeadsMemory:
    """Runs neck and heads of a model on the meta device, in training mode.

    Args:
        model: Of mmdet, mmseg, mmpretrain or mmaction2.
        maps: Shapes (B, C_i, *map) of the backbone's outputs.
        image: (H, W) of the images in pixels, or (T, H, W).
        objects: Number of objects in an image.
    """
    peaks, ran = [], set()
    with torch.device('meta'), _deformable_attention(), _AsOnGPUs(), _watched(model, ran):
        x = tuple(torch.empty(shape, requires_grad=True) for shape in maps)
        live = LiveBytes(*x, *model.parameters(), *model.buffers())
        with live:
            outs = _forward(model, x, image, objects, lambda grad: peaks.append(live.forget_peak()))
            kept = live.live
            _backward(outs)
            peaks.append(live.forget_peak())
    left_out = [part for name, child in model.named_children() for part in _left_out(child, ran, name)]
    return HeadsMemory(kept, peaks[0], peaks[-1] if len(peaks) > 1 else 0, tuple(left_out))


def _deformable_attention() -> AbstractContextManager:
    if find_spec('mmcv') is None:
        return nullcontext()
    return mock.patch('mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch',
                      _DeformableAttention.apply)


def _left_out(module: nn.Module, ran: set[nn.Module], name: str) -> Iterator[str]:
    """Names of the modules with weights in which nothing ran, without backbones."""
    if module in ran or isinstance(module, (SwinTransformerV2, nn.Embedding)):  # queries are taken from the weights
        return
    if next(module.parameters(), None) is None:
        return
    idle = ran.isdisjoint(module.modules()) and not any(isinstance(m, SwinTransformerV2) for m in module.modules())
    if idle or next(module.parameters(recurse=False), None) is not None:
        yield name
    else:
        for child, m in module.named_children():
            yield from _left_out(m, ran, f'{name}.{child}')


def _list(modules) -> list[nn.Module]:
    return list(modules) if isinstance(modules, (nn.ModuleList, nn.Sequential, list, tuple)) else [modules]


@contextmanager
def _watched(model: nn.Module, ran: set[nn.Module]) -> Iterator[None]:
    """Fills ``ran`` with the modules that run, and drops gradients of weights, which are counted elsewhere."""
    def drop(p: Tensor) -> None:
        p.grad = None

    handles = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    handles += [m.register_forward_pre_hook(lambda m, args: ran.add(m)) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(model: nn.Module, x: tuple[Tensor, ...], image: tuple[int, int], objects: int,
             at_neck: Callable[[Tensor], None]) -> list:
    """Outputs of neck and heads; ``at_neck`` is called when the backward pass reaches the neck's first module."""
    if getattr(model, 'neck', None) is not None:
        first, *rest = _list(model.neck)
        x = first(x)
        x[-1].register_hook(at_neck)
        for module in rest:
            x = module(x)
    if hasattr(model, 'forward_transformer'):
        return _run_detr(model, x, image, objects)
    for head in ('panoptic_head', 'decode_head'):
        if hasattr(getattr(model, head, None), 'transformer_decoder'):
            return list(getattr(model, head)(x, _samples(x[0].shape[0], image, objects)))
    if hasattr(model, 'decode_head'):  # a segmentor
        return [_segmentation_loss(head, x, image) for head in
                [*_list(model.decode_head), *_list(getattr(model, 'auxiliary_head', None) or [])]]
    if not (hasattr(model, 'rpn_head') and hasattr(model, 'roi_head')):
        if hasattr(model, 'cls_head'):
            return [model.cls_head(x[-1])]
        if hasattr(model, 'head'):
            return [model.head(x)]
        return [model.bbox_head(x)] if hasattr(model, 'bbox_head') else []
    outs = [model.rpn_head(x)]
    anchors = sum(n * t.shape[-2] * t.shape[-1] for n, t in zip(model.rpn_head.prior_generator.num_base_priors, x))
    model.rpn_head.assigner.iou_calculator(torch.empty(objects, 4), torch.empty(anchors, 4))
    return outs + _run_roi_head(model.roi_head, x, image)


def _run_detr(model: nn.Module, x: tuple[Tensor, ...], image: tuple[int, int], objects: int) -> list:
    """Outputs of a detector of DETR's kin, as in its ``loss``."""
    given = model.forward_transformer(x, _samples(x[0].shape[0], image, objects))
    proposals = [given.pop(name) for name in ('enc_outputs_class', 'enc_outputs_coord') if name in given]
    given.pop('dn_meta', None)
    return [*proposals, *model.bbox_head(**given)]


def _samples(batch: int, image: tuple[int, int], objects: int) -> list:
    """Samples of mmdet with so many objects, which are on the CPU."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    samples = [DetDataSample(metainfo=dict.fromkeys(('batch_input_shape', 'img_shape', 'ori_shape'), image))
               for _ in range(batch)]
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=torch.zeros(objects, 4, device='cpu'),
                                           labels=torch.zeros(objects, dtype=torch.long, device='cpu'))
    return samples


def _run_roi_head(head: nn.Module, x: tuple[Tensor, ...], image: tuple[int, int]) -> list:
    """Outputs of the RoI heads, run as in HTC and Cascade R-CNN."""
    outs = []
    if getattr(head, 'semantic_head', None) is not None:
        outs.append(head.semantic_head(x))
    boxes, masks = _list(head.bbox_head), _list(getattr(head, 'mask_head', None) or [])
    for stage, (box, config) in enumerate(zip(boxes, _list(head.train_cfg))):
        sampler = config['sampler']
        outs.append(box(_pooled(x, sampler['num'], head.bbox_roi_extractor)))
        if stage < len(masks):
            positives = int(sampler['num'] * sampler['pos_fraction'])
            outs.append(_mask(head, masks, stage, _pooled(x, positives, head.mask_roi_extractor)))
            torch.empty(positives, *image, dtype=torch.uint8).float()  # targets
    return outs


def _mask(head: nn.Module, masks: list[nn.Module], stage: int, feats: Tensor):
    """Output of a stage's mask head; HTC's also takes the outputs of all earlier ones on the same features."""
    if not hasattr(masks[stage], 'with_conv_res'):
        return masks[stage](feats)
    last = None
    for earlier in masks[:stage] if head.mask_info_flow else ():
        last = earlier(feats, last, return_logits=False)
    return masks[stage](feats, last, return_feat=False)


def _pooled(x: tuple[Tensor, ...], rois: int, extractors: nn.Module) -> Tensor:
    """Features of ``rois`` RoIs per image, whose gradients flow to the maps."""
    extractor = _list(extractors)[0]
    feats = torch.empty(rois * x[0].shape[0], x[0].shape[1], *extractor.roi_layers[0].output_size)
    return feats + sum(t.sum() for t in x[:extractor.num_inputs])


def _segmentation_loss(head: nn.Module, x: tuple[Tensor, ...], image: tuple[int, int]) -> Tensor:
    """Logits at the labels' size, and their loss."""
    logits = F.interpolate(head(x), size=image, mode='bilinear', align_corners=head.align_corners)
    labels = torch.empty(logits.shape[0], *image, dtype=torch.long)
    return F.cross_entropy(logits, labels)


def _backward(outs: list) -> None:
    """Runs the backward pass from gradients of all outputs."""
    tensors = [t for t in _flatten(outs) if t.requires_grad]
    torch.autograd.backward(tensors, [torch.empty_like(t) for t in tensors])


def _flatten(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flatten(item)
