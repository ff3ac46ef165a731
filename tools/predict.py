#!/usr/bin/env python3
"""Draws what a detector, segmentor or classifier sees in images, and writes it as JSON beside each picture.

    python tools/predict.py configs/mmdet/htc_swinv2_mini.py work_dirs/demo/iter_380.pth data/mini_coco/val --tta
    python tools/predict.py CONFIG CHECKPOINT a.jpg 'folder/*.png' --out work_dirs/pictures

The config says what the model is for. An image that fails is named and skipped, and the exit code is then 1.
"""
from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from mmengine.utils import ProgressBar

from mmswinv2.core.checks import first
from mmswinv2.core.weights.read import weights_of
from mmswinv2.engine import read_run
from mmswinv2.engine.loading import convert_checkpoint
from mmswinv2.inputs import distinct_colours, image_files, without_annotations

SCOPES = ('mmdet', 'mmseg', 'mmpretrain')
TOP = 5  # classes of a classifier that are written


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 if an image was skipped, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='of MMDetection, MMSegmentation or MMPretrain')
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('images', metavar='IMAGES', nargs='+', help='files, folders or patterns')
    parser.add_argument('--tta', action='store_true', help='with the test-time augmentation of the config')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/predict'), help='folder of the results')
    parser.add_argument('--masks', type=Path, help='folder of label images, with a segmentor: a.png for a.jpg')
    parser.add_argument('--score', type=float, default=.3, help='least score of an object of a detector (default .3)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(argv)
    try:
        paths = find_images(args.images)
        predictor = Predictor(args.config, args.checkpoint, tta=args.tta, device=args.device, options=args.cfg_options)
        names = result_names(paths)
        if args.masks:
            check_labels(predictor, names)
    except (ValueError, OSError, ImportError) as e:
        print(f'predict: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    skipped = []
    bar = ProgressBar(len(paths))
    for path, name in zip(paths, names):
        try:
            data, image = predictor.read(path)
            found = predictor.predict(data)
            predictor.write(path, image, found, args.out / name, score=args.score)
            if args.masks:
                write_labels(found, predictor.meta['palette'], args.masks / name.with_suffix('.png'))
        except Exception as e:  # what readers of images raise is as various as what is wrong with images
            skipped.append(f'{path}: {reason(e)}')
        bar.update()
    print(f'\n{len(paths) - len(skipped)} of {len(paths)} images: {args.out}')
    for line in skipped:
        print(f'predict: skipped {line}', file=sys.stderr)
    return int(bool(skipped))


def find_images(given: list[str]) -> list[Path]:
    """Files, in the order given; those of a folder and of a pattern are sorted.

    What a folder has that cannot be looked into is among them, so that reading says why.

    Raises:
        ValueError: if something names no image.
    """
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            paths = sum(image_files(path), [])
        else:
            paths = [path] if path.is_file() else sorted(map(Path, glob.glob(text, recursive=True)))
        if not paths:
            raise ValueError(f'IMAGES must name files, folders with images or patterns, got {text!r}')
        found.update(dict.fromkeys(paths))
    return list(found)


def reason(e: Exception) -> str:
    """Why something failed, in one line."""
    return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'


def result_names(paths: list[Path]) -> list[Path]:
    """Where each result goes below the folder of results: as the images are below the folder that they share."""
    absolute = [path.absolute() for path in paths]
    base = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(base) for path in absolute]


class Predictor:
    """The model of a config with all its weights, and its pipeline; with ``tta`` those of test-time augmentation.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the config is of another host or has no augmentation, or weights of the model are missing.
    """

    def __init__(self, config: str, checkpoint: str, *, tta: bool, device: str, options: dict) -> None:
        cfg = read_config(config, options)
        self.scope = cfg.default_scope
        if tta and not ('tta_model' in cfg and 'tta_pipeline' in cfg):
            raise ValueError(f'--tta needs tta_model and tta_pipeline in the config, which {config} has not')
        held = read_run(checkpoint)
        with DefaultScope.overwrite_default_scope(self.scope):
            model = MODELS.build(cfg.model)
            load(model, held, checkpoint)
            self.meta = dataset_meta(cfg, held)
            model.dataset_meta = self.meta
            if tta:
                model = MODELS.build(dict(cfg.tta_model, module=model))
            self.pipeline = build_pipeline(cfg.tta_pipeline if tta else pipeline_steps(cfg))
            self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=f'predict {id(self)}', vis_backends=None))
        self.visualizer.dataset_meta = self.meta
        self.model = model.to(device).eval()

    def read(self, path: Path) -> tuple[dict, np.ndarray]:
        """An image as the model takes it, and as it was read."""
        return read_image(path, self.pipeline, self.scope)

    def predict(self, data: dict) -> BaseDataElement:
        """What the model makes of it."""
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.scope):
            return self.model.test_step(pseudo_collate([data]))[0]

    def write(self, path: Path, image: np.ndarray, found: BaseDataElement, out: Path, *, score: float) -> None:
        """Writes the picture, and JSON beside it."""
        out.parent.mkdir(parents=True, exist_ok=True)
        picture = out.with_name(f'{out.name}.png')
        image = to_picture(image)
        found = found.cpu()
        classes = list(self.meta.get('classes') or [])
        if self.scope == 'mmpretrain':
            self.visualizer.visualize_cls(image, found, classes=self.meta.get('classes'), draw_gt=False,
                                          out_file=str(picture))
            seen = scores(found, classes)
        else:
            least = dict(pred_score_thr=score) if self.scope == 'mmdet' else {}
            self.visualizer.add_datasample(str(path), image, found, draw_gt=False, out_file=str(picture), **least)
            seen = objects(found, classes, score) if self.scope == 'mmdet' else areas(found, classes)
        text = dict(image=str(path), **seen)
        out.with_name(f'{out.name}.json').write_text(json.dumps(text, indent=1))


def read_config(name: str, options: dict) -> Config:
    """A config of a host with images, changed by options as of --cfg-options; the host's modules are registered.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another host.
    """
    cfg = Config.fromfile(name)
    cfg.merge_from_dict(options)
    scope = cfg.get('default_scope')
    if scope not in SCOPES:
        raise ValueError(f'CONFIG must be of {", ".join(SCOPES)}, got default_scope={scope!r}')
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # the checkpoint has all weights
    return cfg


def pipeline_steps(cfg: Config) -> list:
    """The pipeline of images at test.

    Raises:
        ValueError: if the config has none.
    """
    steps = ((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline')
    if not steps:
        raise ValueError(f'CONFIG must have test_dataloader.dataset.pipeline, which {cfg.filename} has not')
    return steps


def named(classes: list[str], label: int) -> str | int:
    """The name of a class, or its number where it has none."""
    return classes[label] if label < len(classes) else label


def build_pipeline(steps: list) -> Compose:
    """Steps, but for those that want annotations."""
    return Compose([TRANSFORMS.build(step) for step in without_annotations(steps)])


def read_image(path: Path, pipeline: Compose, scope: str) -> tuple[dict, np.ndarray]:
    """An image after a pipeline of a host, and as its first steps loaded it."""
    data, image = dict(img_path=str(path), img_id=0, seg_fields=[]), None
    with DefaultScope.overwrite_default_scope(scope):
        for step in pipeline.transforms:
            data = step(data)
            if image is None and 'img' in data:
                image = data['img'].copy()  # later steps may write into it
    return data, image


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image as OpenCV reads it, (H, W) or (H, W, channels), BGR first, as RGB of 8 bits.

    One or two channels are drawn as grey, more than three without the others. Values above 255 are scaled.
    """
    image = np.atleast_3d(image)
    image = image[..., 2::-1] if image.shape[2] > 2 else image[..., [0, 0, 0]]
    if image.dtype != np.uint8:
        image = (image * (255 / max(255, image.max()))).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def load(model: torch.nn.Module, checkpoint: dict, name: str) -> None:
    """Loads all weights, with the backbone in any layout.

    Raises:
        ValueError: if one is missing or of another shape.
    """
    held = dict(state_dict=weights_of(checkpoint)[0])
    convert_checkpoint(model, held)
    own, state = model.state_dict(), held['state_dict']
    missing = [k for k in own if k not in state and not k.endswith('pretrained_window_sizes')]
    shapes = [k for k, v in own.items() if k in state and state[k].shape != v.shape]
    for what, names in (('missing', missing), ('of another shape', shapes)):
        if names:
            raise ValueError(f'CHECKPOINT must hold each weight of the model, got {name}; {what}: {len(names)} '
                             f'({first(names)})')
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def dataset_meta(cfg: Config, checkpoint: dict) -> dict:
    """Names and colours of classes: of the run that wrote the checkpoint, or else of the config's data set."""
    meta = dict((checkpoint.get('meta') or {}).get('dataset_meta') or {})
    if not meta.get('classes'):
        dataset = cfg.test_dataloader.dataset
        meta = dict(getattr(DATASETS.get(dataset.type), 'METAINFO', {}), **dataset.get('metainfo', {}))
    return dict(dict(palette=distinct_colours(len(meta.get('classes') or ()))), **meta)


def check_labels(predictor: Predictor, names: list[Path]) -> None:
    """Checks that label images can be written.

    Raises:
        ValueError: if the model is no segmentor, has more classes than 8 bits, or two would have one name.
    """
    stems = [name.with_suffix('') for name in names]
    repeated = [str(name) for name, stem in zip(names, stems) if stems.count(stem) > 1]
    number = len(predictor.meta['palette'])
    if predictor.scope != 'mmseg' or number > 256:
        raise ValueError(f'--masks needs a segmentor with 256 classes at most, got {number} of {predictor.scope}')
    if repeated:
        raise ValueError(f'--masks needs images whose names differ in more than the suffix, got {first(repeated)}')


def write_labels(found: BaseDataElement, palette: list, path: Path) -> None:
    """Writes what a segmentor sees as a label image."""
    from mmswinv2.segmentation.data import label_image
    path.parent.mkdir(parents=True, exist_ok=True)
    label_image(found.pred_sem_seg.data[0].cpu().numpy(), palette).save(path)


def objects(found: BaseDataElement, classes: list[str], score: float) -> dict:
    """Objects of a detector, as COCO's results have them: boxes (x, y, w, h), masks as run lengths."""
    from pycocotools import mask
    instances = found.pred_instances
    instances = instances[instances.scores >= score]
    out = []
    for i in range(len(instances)):
        x1, y1, x2, y2 = instances.bboxes[i].tolist()
        item = {'category': named(classes, int(instances.labels[i])), 'score': float(instances.scores[i]),
                'bbox': [x1, y1, x2 - x1, y2 - y1]}
        if 'masks' in instances:
            coded = instances.masks[i]
            if not isinstance(coded, dict):
                pixels = np.asarray(coded).astype(np.uint8)
                coded = mask.encode(np.asfortranarray(pixels.reshape(pixels.shape[-2:])))
            counts = coded['counts']
            item['segmentation'] = dict(size=list(coded['size']),
                                        counts=counts.decode() if isinstance(counts, bytes) else counts)
        out.append(item)
    return dict(objects=out)


def areas(found: BaseDataElement, classes: list[str]) -> dict:
    """Classes that a segmentor sees, and the share of the image that each has."""
    labels, counts = np.unique(found.pred_sem_seg.data.numpy(), return_counts=True)
    order = np.argsort(-counts)
    return dict(areas=[dict(category=named(classes, int(labels[i])), share=float(counts[i] / counts.sum()))
                       for i in order])


def scores(found: BaseDataElement, classes: list[str]) -> dict:
    """The best classes of a classifier, with their scores."""
    values, labels = found.pred_score.topk(min(TOP, len(found.pred_score)))
    return dict(classes=[dict(category=named(classes, label), score=value)
                         for value, label in zip(values.tolist(), labels.tolist())])


if __name__ == '__main__':
    sys.exit(main())
