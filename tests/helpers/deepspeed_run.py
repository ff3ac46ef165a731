"""One process of a training run on a CPU with gloo: ``deepspeed_run.py CONFIG WORK_DIR KEY=VALUE ...``.

RANK and its like are set. mmengine's launcher calls ``torch.cuda.set_device``; a process group that
is there already is taken as it is.
"""
import json
import sys
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from torch import distributed


def main() -> None:
    """Trains."""
    torch.set_num_threads(1)
    config, work_dir, *options = sys.argv[1:]
    distributed.init_process_group('gloo', timeout=timedelta(seconds=120))
    cfg = Config.fromfile(config)
    cfg.launcher, cfg.work_dir = 'pytorch', work_dir
    cfg.merge_from_dict({k: json.loads(v) for k, v in (o.split('=', 1) for o in options)})
    runner = RUNNERS.build(cfg)
    runner.train()
    runner.model.destroy()
    del runner
    distributed.destroy_process_group()


if __name__ == '__main__':
    main()
