"""The OpenMMLab packages that parts of the plugin need, and what to say when one is missing."""
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

ONEDL_NAMES = dict(mmdet='mmdetection')  # where onedl-mim wants another name than the import name


def is_installed(host: str) -> bool:
    """Whether a package such as ``'mmdet'`` can be imported."""
    return find_spec(host) is not None


def require(host: str, part: str) -> None:
    """Checks that a package is there.

    Args:
        host: Import name, such as ``'mmdet'``.
        part: The part of the plugin that needs it, such as ``'mmswinv2.detection'``.

    Raises:
        ImportError: if it is not; the message names the extras to install.
    """
    if not is_installed(host):
        raise ImportError(f'{part} needs {host}, which is not installed. Install the plugin with one of its extras: '
                          "pip install 'mmswinv2-plugin[classic]' (mmdet 3.3, mmsegmentation 1.2) or "
                          "pip install 'mmswinv2-plugin[onedl]' (the maintained forks)")


def mim_name(host: str) -> str:
    """The name that the installed mim knows a host by, as in ``mim train NAME CONFIG``.

    The maintained forks have the import names of the classic packages but other distributions, which mim goes by.

    Args:
        host: Import name, such as ``'mmdet'``.
    """
    name = ONEDL_NAMES.get(host, host)
    try:
        distribution(f'onedl-{name}')
    except PackageNotFoundError:
        return host
    return name
