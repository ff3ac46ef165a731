"""The OpenMMLab packages that parts of the plugin need, and what to say when one is missing."""
from importlib.util import find_spec


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
