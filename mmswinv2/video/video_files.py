"""Videos by a list, of which the line or the file that cannot be read is named."""
from __future__ import annotations

import os
from typing import BinaryIO

from mmaction.datasets import VideoDataset
from mmengine.fileio import list_from_file

from ..core.checks import first
from ..registry import DATASETS


@DATASETS.register_module()
class VideoFiles(VideoDataset):
    """mmaction2's ``VideoDataset`` whose errors name the line of the list, or the video.

    Arguments are those of mmaction2's class. A line is ``NAME LABEL``, with ``delimiter`` between them, or a name.

    Raises:
        ValueError: if a line is something else, as one with a space in a name is; and from an item, if its video is
            empty, cut, or fails in the pipeline. Decoders raise without a name, end the process, or repeat frames.
    """

    def load_data_list(self) -> list[dict]:
        """The videos with their labels, as mmaction2 reads them."""
        lines = list_from_file(self.ann_file)
        wrong = [f'line {i} has {line!r}' for i, line in enumerate(lines, 1) if not self._is_item(line)]
        if wrong:
            raise ValueError(f'{self.ann_file}: lines must be a name and a label with {self.delimiter!r} between them '
                             f'alone (delimiter=... for another character, where names have this one), got '
                             f'{len(wrong)} that are not: {first(wrong)}')
        return super().load_data_list()

    def _is_item(self, line: str) -> bool:
        name, *labels = line.strip().split(self.delimiter)
        return bool(name) and (self.multi_class or len(labels) < 2) and all(
            label.strip().removeprefix('-').isdecimal() for label in labels)

    def prepare_data(self, idx: int):
        """An item after the pipeline."""
        path = self.get_data_info(idx)['filename']
        try:
            check_whole(path)
            return super().prepare_data(idx)
        except Exception as e:  # what decoders raise is as various as what is wrong with videos
            raise ValueError(f'{path} must be a video that can be read whole, got {type(e).__name__}: '
                             f'{" ".join(str(e).split())}') from e


def check_whole(path: str) -> None:
    """Checks that a video on a local disk is as long as it says, which AVI, MP4 and Matroska (WebM) do.

    Raises:
        EOFError: if it is shorter, or empty.
    """
    if not os.path.isfile(path):
        return
    size, end = os.path.getsize(path), 0
    with open(path, 'rb') as file:
        head = file.read(8)
        if head[:4] == b'RIFF':
            end = 8 + int.from_bytes(head[4:8], 'little')
        elif head[:4] == b'\x1aE\xdf\xa3':  # a header and a segment, each with its length
            file.seek(4)
            file.seek(_matroska_length(file) + 4, os.SEEK_CUR)
            end = _matroska_length(file) + file.tell()
        elif head[4:] == b'ftyp':  # one box after the other, each with its length
            while end < size:
                file.seek(end)
                length = int.from_bytes(file.read(4), 'big')
                if length == 1:
                    length = int.from_bytes(file.read(12)[4:], 'big')
                if length < 8:  # 0: to the end of the file
                    break
                end += length
    if end > size + 16 or not size:  # some that write AVI count their header, too
        raise EOFError(f'{size} of {end} bytes' if size else 'an empty file')


def _matroska_length(file: BinaryIO) -> int:
    """A length in as many bytes as its first says; 0 if all bits are set, as where a file is streamed."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    length = (first - (128 >> more) << 8 * more) + int.from_bytes(file.read(more), 'big')
    return 0 if length == 2**(7 * (more + 1)) - 1 else length
