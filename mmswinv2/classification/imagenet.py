"""Data sets: ImageNet-V2, whose folders are numbered, and ImageNet-22K by a list."""
from __future__ import annotations

from pathlib import Path

from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

from ..registry import DATASETS


@DATASETS.register_module()
class ImageNetV2(CustomDataset):
    """ImageNet-V2: folders ``0`` to ``999`` of images, the number being the label.

    Folder data sets sort these names as text, ``0, 1, 10, 100, ...``, which would make 991 of 1,000 labels wrong.

    Args:
        data_root: The folder, such as ``imagenetv2-matched-frequency-format-val``.
        kwargs: As of mmpretrain's ``CustomDataset``, without ``ann_file`` and ``data_prefix``.

    Raises:
        ValueError: if one of these folders is missing, or there are others.

    Source:
        arXiv:1902.10811; modestyachts/ImageNetV2, issues 4 and 10.
    """

    METAINFO = {'classes': IMAGENET_CATEGORIES}

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(data_root=data_root, data_prefix='', **kwargs)

    def _find_samples(self) -> list[tuple[str, int]]:
        root = Path(self.data_root)
        names = {p.name for p in root.iterdir() if p.is_dir()} if root.is_dir() else set()
        expected = {str(i) for i in range(len(self.CLASSES))}
        if names != expected:
            wrong = sorted(names - expected) or sorted(expected - names, key=int)
            what = 'not one of them' if names - expected else 'missing'
            raise ValueError(f'data_root must hold the folders 0 to {len(expected) - 1} of ImageNet-V2 and no others, '
                             f'got {len(names)} folders in {root}; {what}: {", ".join(wrong[:3])}')
        samples = [(f'{label}/{p.name}', label) for label in range(len(expected))
                   for p in sorted((root / str(label)).iterdir()) if self.is_valid_file(p.name)]
        empty = sorted(set(range(len(expected))) - {label for _, label in samples})
        if empty:
            raise ValueError(f'data_root must hold images in each folder, got none in {empty[:3]} of {root}')
        return samples


@DATASETS.register_module()
class ImageNet22K(CustomDataset):
    """ImageNet-22K by a list of images and labels: folders alone do not say which row of a head a class is.

    Args:
        data_root: Folder of the images.
        ann_file: A text file with a line ``NAME LABEL`` per image, labels from 0 to 21,840.
        kwargs: As of mmpretrain's ``CustomDataset``.

    Raises:
        ValueError: if there is no list.
    """

    METAINFO = {'classes': tuple(str(i) for i in range(21841))}

    def __init__(self, data_root: str, ann_file: str = '', **kwargs) -> None:
        if not ann_file:
            raise ValueError('ann_file must name a list of the images of ImageNet-22K, one "NAME LABEL" per line, got '
                             'none: --cfg-options train_dataloader.dataset.ann_file=FILE '
                             'val_dataloader.dataset.ann_file=FILE')
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)
