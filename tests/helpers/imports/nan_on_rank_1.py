"""Makes a loss of the second process NaN in the third iteration. Imported by configs of tests alone."""
import os

from mmswinv2.detection import HybridTaskCascadeRoIHead

loss, calls = HybridTaskCascadeRoIHead.loss, []


def poisoned(self, *args, **kwargs):
    """Losses, one of them NaN at the third call."""
    losses = loss(self, *args, **kwargs)
    calls.append(1)
    if len(calls) == 3 and os.environ.get('RANK') == '1':
        losses['s0.loss_cls'] = losses['s0.loss_cls'] * float('nan')
    return losses


HybridTaskCascadeRoIHead.loss = poisoned
