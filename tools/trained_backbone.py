"""The backbone of a config with trained weights, images as it takes them, and its blocks one by one, for pictures."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.swin_transformer_v2 import SwinBlock
from mmswinv2.core.weights import load_backbone, read_backbone_state
from mmswinv2.engine import read_run
from predict import build_pipeline, pipeline_steps, read_config, read_image


class Step(NamedTuple):
    """A block as it runs: its stage, its number there, the module, and the maps (B, H, W, C) before and after it."""

    stage: int
    number: int
    block: SwinBlock
    before: Tensor
    after: Tensor


class TrainedBackbone:
    """The backbone of a config, in evaluation mode, with images as its model takes them at test.

    Args:
        config: Its file, of MMDetection, MMSegmentation or MMPretrain.
        checkpoint: The weights of the whole model, or of a backbone in any known layout; what is beside the backbone is
            not used.
        device: Where it runs.
        options: For the config, as after --cfg-options.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the config is of another host, has no SwinV2 backbone or no pipeline, or the weights do not fit.
    """

    def __init__(self, config: str, checkpoint: str, *, device: str = 'cpu', options: dict) -> None:
        cfg = read_config(config, options)
        self.scope = cfg.default_scope
        held = read_run(checkpoint)
        with DefaultScope.overwrite_default_scope(self.scope):
            model = MODELS.build(cfg.model)
            self.pipeline = build_pipeline(pipeline_steps(cfg))
        net = getattr(model, 'backbone', None)
        if not isinstance(net, SwinTransformerV2):
            raise ValueError('CONFIG must have a model.backbone of type mmswinv2.SwinTransformerV2, got '
                             f'{type(net).__name__} in {config}')
        try:
            load_backbone(net, read_backbone_state(held))
        except ValueError as e:
            raise ValueError(f'CHECKPOINT must fit the backbone of {config}, got {checkpoint}: {e}') from e
        self.net = net.to(device).eval()
        self.preprocessor = model.data_preprocessor.to(device)

    def read(self, path: Path) -> tuple[Tensor, Tensor]:
        """What the backbone takes of an image, (1, C, H, W), normalised; the image before that, (C, h, w)."""
        data, _ = read_image(path, self.pipeline, self.scope)
        with torch.no_grad():
            return self.preprocessor(pseudo_collate([data]), False)['inputs'], data['inputs']

    @torch.no_grad()
    def run(self, x: Tensor) -> Iterator[Step]:
        """Runs the blocks that outputs depend on, one by one, on what :meth:`read` gives."""
        x = self.net.pos_drop(self.net.embed(x))
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage.blocks):
                before, x = x, block(x)
                yield Step(i, j, block, before, x)
            if i + 1 < len(self.stages):
                x = stage.downsample(x)

    @property
    def stages(self) -> list:
        """Those that outputs depend on."""
        return list(self.net.layers[:max(self.net.out_indices) + 1])
