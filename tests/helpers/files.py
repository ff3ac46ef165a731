"""Files of other projects and of this one: the layout of each, sizes of a backbone, and what writes it."""
import torch

from . import peer_files
from .backbones import DEEP, PLAIN

FILES = {
    'own': ('mmswinv2', DEEP, lambda s, d: dict(state_dict=dict(s), meta=dict(epoch=1))),
    'own in a detector': ('mmswinv2', DEEP, lambda s, d: dict(state_dict={
        **{f'backbone.{k}': v for k, v in s.items()}, 'neck.conv.weight': torch.zeros(1)})),
    'microsoft': ('microsoft', PLAIN, peer_files.microsoft),
    'microsoft with coordinates': ('microsoft', PLAIN, lambda s, d: peer_files.microsoft(s, d, [4] * 3, [4] * 3)),
    'microsoft from DDP': ('microsoft', PLAIN, lambda s, d: dict(model={
        f'module.{k}': v for k, v in peer_files.microsoft(s, d)['model'].items()})),
    'simmim': ('simmim', DEEP, peer_files.simmim),
    'simmim without encoder': ('simmim', DEEP, lambda s, d: peer_files.simmim(s, d, encoder=False)),
    'timm': ('timm', PLAIN, peer_files.timm),
    'timm in OpenMMLab': ('timm', PLAIN, lambda s, d: dict(state_dict={
        f'backbone.timm_model.{k}': v for k, v in peer_files.timm(s, d).items()})),
    'transformers': ('transformers', PLAIN, peer_files.transformers),
    'transformers without prefix': ('transformers', PLAIN, lambda s, d: peer_files.transformers(s, d, prefix='')),
    'torchvision': ('torchvision', PLAIN, lambda s, d: peer_files.torchvision(s, d, [4] * 3)),
    'mmpretrain': ('mmpretrain', DEEP, peer_files.mmpretrain),
}

# of head.weight and of the mask token, from the top of a file of each layout; written out by hand
PLACES = dict(
    mmswinv2=('head.weight', 'mask_token'), microsoft=('head.weight', None),
    simmim=('encoder.head.weight', 'encoder.mask_token'), timm=('head.fc.weight', None),
    transformers=('classifier.weight', 'swinv2.embeddings.mask_token'), torchvision=('head.weight', None),
    mmpretrain=('head.fc.weight', None))
SILENT = ('timm', 'transformers')  # layouts whose files do not say their windows
