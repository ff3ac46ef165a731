"""The OpenMMLab packages that parts of the plugin need, and what to say when one is missing."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

STACKS = ("[classic]' (mmdet 3.3, mmsegmentation 1.2)", "[onedl]' (the maintained forks)")


@dataclass(frozen=True)
class Host:
    """A package that one folder of the plugin needs.

    Args:
        folder: The folder, a package of ``mmswinv2``.
        names: What it has, by the module that defines it.
        onedl_name: What onedl-mim calls the package, where that is not its import name.
        mim: What mim calls it, likewise.
        extras: Of this plugin, that install it, with what they bring.
    """

    folder: str
    names: Mapping[str, tuple[str, ...]]
    onedl_name: str | None = None
    mim: str | None = None
    extras: tuple[str, ...] = STACKS


# by import name; the one place to add a host to
HOSTS = {
    'mmdet': Host('detection', dict(
        coco_instances=('CocoInstances',), htc_pp=('GlobalAttentionFPN', 'HybridTaskCascade'), masks=('RLEMasks',),
        roi_heads=('CascadeRoIHead', 'HybridTaskCascadeRoIHead', 'SingleRoIExtractor'), tta=('InstanceSegTTAModel',)),
        onedl_name='mmdetection'),
    'mmseg': Host('segmentation', dict(data=('CheckLabels', 'MaskImages'), tta=('StreamingSegTTAModel',))),
    'mmpretrain': Host('classification', dict(
        imagenet=('ImageNet22K', 'ImageNetV2'), simmim=('MaskedL1', 'SimMIM', 'SimMIMHead', 'SimMIMSwinTransformerV2')),
        extras=("[classic,mmpretrain]' (mmpretrain 1.2)", "[onedl,onedl-mmpretrain]' (its maintained fork)")),
    'mmaction': Host('video', dict(data=('FiveCrop', 'ShuffleFrames', 'VideoFiles')), mim='mmaction2',
                     extras=("[classic,mmaction2]' (mmaction2 1.2)",)),
}


def is_installed(package: str) -> bool:
    """Whether a package such as ``'mmdet'`` can be imported."""
    return find_spec(package) is not None


def missing(package: str, part: str) -> ImportError:
    """The error for a package that is not there.

    Args:
        package: Import name, such as ``'mmdet'``.
        part: The part of the plugin that needs it, such as ``'mmswinv2.detection'``.

    Returns:
        An error to raise; its message names the extras to install.
    """
    extras = HOSTS[package].extras if package in HOSTS else STACKS
    ways = ' or '.join(f"pip install 'mmswinv2-plugin{extra}" for extra in extras)
    return ImportError(f'{part} needs {package}, which is not installed. Install the plugin with its extras: {ways}')


def folder_names(host: str) -> tuple[list[str], Callable[[str], object]]:
    """``__all__`` and ``__getattr__`` of a host's folder, which imports the host where one of its names is used.

    Args:
        host: A key of ``HOSTS``.

    Returns:
        (the names, a function from a name to what it names). The function raises ``ImportError`` if the host is not
        installed, and ``AttributeError`` for another name.
    """
    folder = f'mmswinv2.{HOSTS[host].folder}'
    modules = {name: module for module, names in HOSTS[host].names.items() for name in names}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f'module {folder!r} has no attribute {name!r}')
        if not is_installed(host):
            raise missing(host, f'{folder}.{name}')
        return getattr(import_module(f'{folder}.{modules[name]}'), name)

    return sorted(modules), get


def without_traceback_of_mim(output: str) -> str:
    """What a failed ``mim`` wrote, up to the reason: the traceback of its own that follows has an exit code alone."""
    return re.sub(r'Traceback \(most recent call last\):\n  File "[^"\n]*\bmim", line .*', '', output, flags=re.DOTALL)


def mim_name(host: str) -> str:
    """The name that the installed mim knows a host by, as in ``mim train NAME CONFIG``.

    The maintained forks have the import names of the classic packages but other distributions, which mim goes by.

    Args:
        host: Import name, such as ``'mmdet'``.
    """
    known = HOSTS[host]
    name = known.onedl_name or host
    try:
        distribution(f'onedl-{name}')
    except PackageNotFoundError:
        return known.mim or host
    return name
