"""Images, annotations and views for detectors, as pipelines make them."""
import copy

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.structures import InstanceData

from mmswinv2.detection.tta import FLIPS

SIZE = (93, 131)  # of image(): odd, (h, w)


def sample(h, w, boxes, labels):
    """What a training sample says: boxes (x0, y0, x1, y1), each with a rectangle as its mask."""
    data = DetDataSample(metainfo=dict(img_shape=(h, w), ori_shape=(h, w), scale_factor=(1., 1.), pad_shape=(h, w),
                                       batch_input_shape=(h, w)))
    polygons = [[np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)] for x0, y0, x1, y1 in boxes]
    data.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                     labels=torch.tensor(labels, dtype=torch.int64),
                                     masks=PolygonMasks(polygons, h, w))
    data.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return data


def batch(*samples):
    """Samples with images of noise."""
    return dict(inputs=[torch.randint(0, 255, (3, *s.img_shape), dtype=torch.uint8) for s in samples],
                data_samples=list(samples))


def image(seed=0, size=SIZE):
    """An image of blocks of 8 x 8 pixels."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 255, (3, size[0] // 8 + 1, size[1] // 8 + 1), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :size[0], :size[1]].contiguous()


def view(img, scale=1., flip=None, ori=None):
    """A view of an image as a pipeline makes it."""
    h, w = ori or img.shape[1:]
    new = (int(h * scale + .5), int(w * scale + .5))
    if scale != 1:
        img = torch.nn.functional.interpolate(img[None].float(), new, mode='bilinear')[0].round().to(torch.uint8)
    if flip:
        img = img.flip(FLIPS[flip])
    meta = dict(img_shape=new, ori_shape=(h, w), scale_factor=(new[1] / w, new[0] / h), flip=flip is not None,
                flip_direction=flip, img_id=0)
    return img, DetDataSample(metainfo=meta)


def collate(views):
    """One image's views as ``pseudo_collate`` makes them."""
    return dict(inputs=[[v[0]] for v in views], data_samples=[[copy.deepcopy(v[1])] for v in views])
