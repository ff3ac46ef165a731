"""Chooses the checkpoint of ``--resume``, named by ``last_checkpoint`` or the newest whole one; checks its model."""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from mmengine import dist
from mmengine.logging import print_log

from ..core.checks import first
from ..core.weights.files import replace_text, why_damaged
from .conversion import unwrapped

LAST = 'last_checkpoint'


def why_not_whole(path: Path) -> str | None:
    """Why a run cannot resume from a checkpoint, in words; None if it can. Reads the whole checkpoint.

    Args:
        path: A file that ``torch.save`` wrote, or a folder of them (one per process).
    """
    if path.is_dir():
        files = sorted(f for f in path.rglob('*') if f.suffix in ('.pth', '.pt'))
        return next((f'{f.name} {why}' for f in files if (why := why_not_whole(f))), None) if files else 'is empty'
    if not path.is_file():
        return 'is not there'
    why = why_damaged(path)
    return why and f'is {why}'


def checkpoints_by_age(folder: Path) -> list[Path]:
    """The checkpoints ``NAME_STEP.pth`` in a folder, the last step first; those named ``best_*`` are left out."""
    steps = {}
    for path in folder.glob('*_*.pth'):
        step = re.fullmatch(r'(?!best_).*_(\d+)', path.stem)
        if step:
            steps[path] = int(step[1])
    return sorted(steps, key=lambda p: (-steps[p], p.name))


def newest_whole(work_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, and the faults of those that would have come before it.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    named = _named(work_dir / LAST)
    found = [Path(named)] if named else []
    folders = dict.fromkeys([*(p.parent for p in found), work_dir])
    found += [p for folder in folders if folder.is_dir() for p in checkpoints_by_age(folder)]
    wrong: list[str] = []
    for path in dict.fromkeys(found):
        why = why_not_whole(path)
        if why is None:
            return path, wrong
        wrong.append(f'{path} {why}')
    if wrong:
        raise ValueError(f'resume needs a whole checkpoint in {work_dir}, and there is none: {"; ".join(wrong[:5])}')
    return None, []


def prepare_resume(runner) -> None:
    """Makes ``last_checkpoint`` name a whole checkpoint before the runner resumes; logs a warning if it did not.

    Does nothing if the user names a file, or does not resume. All processes call it.

    Raises:
        ValueError: if there are checkpoints in the work directory and none is whole.
    """
    if not runner._resume or runner._load_from is not None:
        return
    answer: list = [None]
    if dist.is_main_process():
        try:
            answer[0] = newest_whole(Path(runner.work_dir))
        except ValueError as e:
            answer[0] = e
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], ValueError):
        raise answer[0]
    path, wrong = answer[0]
    last = Path(runner.work_dir) / LAST
    if path is None:
        print_log(f'resume: there is no checkpoint in {runner.work_dir}: training starts at the beginning', 'current',
                  logging.WARNING)
        return
    if dist.is_main_process() and _named(last) != str(path):
        wrong = wrong or [f'{last} names no checkpoint']
        print_log(f'resume: {"; ".join(wrong[:5])}: resuming from {path}, the newest whole checkpoint', 'current',
                  logging.WARNING)
        replace_text(last, str(path))
    dist.barrier()


def check_resumed(runner, checkpoint: Mapping) -> None:
    """Checks that a run's checkpoint is of the runner's model; mmengine would log what differs and train on.

    Args:
        runner: Its model may be wrapped.
        checkpoint: Contents of the file, converted, before they are loaded.

    Raises:
        ValueError: if weights are missing, unexpected or of another shape, or the file is none of a run.
    """
    name = runner._resume if isinstance(runner._resume, str) else runner._load_from or _named(
        Path(runner.work_dir) / LAST)
    way = 'To begin with its weights instead: load_from=FILE after --cfg-options, and no --resume'
    if not {'meta', 'message_hub', 'state_dict'} <= checkpoint.keys():
        raise ValueError(f'--resume needs the checkpoint of a run, got {name}, which has weights alone. {way}')
    model, file = ({k.removeprefix('module.'): tuple(getattr(v, 'shape', ())) for k, v in weights.items()}
                   for weights in (unwrapped(runner.model).state_dict(), checkpoint['state_dict']))
    faults = {
        'of another shape': [f'{k} {file[k]} for {model[k]}' for k in model if file.get(k, model[k]) != model[k]],
        'missing': [k for k in model if k not in file], 'unexpected': [k for k in file if k not in model]}
    if any(faults.values()):
        raise ValueError(f'--resume needs a checkpoint of this model, got {name}, of whose weights are ' + ', '.join(
            f'{len(names)} {fault} ({first(names, 3)})' for fault, names in faults.items() if names) + f'. {way}')


def _named(last: Path) -> str:
    return last.read_text().strip() if last.is_file() else ''
