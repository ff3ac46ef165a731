"""Files that hold code, or are damaged."""
import pickle

import torch


class Payload:
    """Writes the file ``marker`` when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), 'w')


def evil(path, marker, kind, state=None):
    """Writes a checkpoint of a run with code beside its weights; ``kind``: ``'zip'``, ``'legacy'`` or ``'pickle'``."""
    content = dict(state_dict=state or {}, meta=dict(iter=2, epoch=0, more=Payload(marker)), message_hub={},
                   optimizer=dict(state={}, param_groups=[]))
    if kind == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == 'zip')


def cut(path, size=1000):
    """Takes the end of a file away."""
    path.write_bytes(path.read_bytes()[:-size])


def flip(path):
    """Changes a bit among the weights."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b'PK\x01\x02') - 3000] ^= 64
    path.write_bytes(data)
