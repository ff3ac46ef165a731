"""Importing the plugin registers names, and nothing else; repairs of MMEngine are made where they are asked for."""
import ast
import importlib
import json
import re
import warnings
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path

import pytest
from mmengine.analysis import complexity_analysis
from mmengine.config import Config

import mmswinv2
from helpers.interpreter import run_python
from mmswinv2.engine import loading
from mmswinv2.engine.repairs import count_fused_attention, silence_torchvision
from mmswinv2.hosts import HOSTS, is_installed

pytestmark = pytest.mark.mmengine

CONFIGS = Path(__file__).parents[1] / 'configs'
# what a process shares: taken before and after an import, in a process forked from one that has imported what is beside
SNAPSHOT = '''
import inspect, json, logging, multiprocessing, os, random, signal, sys, warnings
import numpy, torch, mmengine.runner, mmengine.analysis
from mmengine.analysis import complexity_analysis as counted
from mmengine.runner import CheckpointLoader
from torch.utils import flop_counter

def members(module):
    return {k: repr(v) for k, v in vars(module).items() if inspect.isfunction(v) or inspect.isclass(v)}

def methods(cls):
    return {k: repr(v) for k, v in vars(cls).items() if callable(v)}

def snapshot():
    hooks = {k: list(map(repr, v.items())) if isinstance(v, dict) else repr(v)
             for k, v in vars(torch.nn.modules.module).items() if k.startswith('_global')}
    registries = {k: sorted(v.module_dict) for k, v in vars(mmengine.registry).items()
                  if isinstance(v, mmengine.registry.Registry)}
    return dict(
        hooks=hooks, registries=registries,
        safe_globals=sorted(map(repr, torch.serialization.get_safe_globals())),
        schemes={k: repr(v) for k, v in CheckpointLoader._schemes.items()},
        operations={name: {k: repr(f) for k, f in table.items()} for name, table in vars(counted).items()
                    if name.startswith('_DEFAULT')},
        torch_operations=sorted(str(k) for k in flop_counter.flop_registry if not str(k).startswith('mmswinv2.')),
        warnings=list(map(repr, warnings.filters)), environment=dict(os.environ),
        path=[sys.path, *([repr(h) for h in hooks] for hooks in (sys.meta_path, sys.path_hooks))],
        start_method=multiprocessing.get_start_method(allow_none=True),
        draws=[repr(random.getstate()), repr(numpy.random.get_state()), torch.get_rng_state().tolist()],
        threads=[torch.get_num_threads(), torch.get_num_interop_threads()], dtype=str(torch.get_default_dtype()),
        backends=[torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.is_grad_enabled(),
                  torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
        signals={s.name: repr(signal.getsignal(s)) for s in signal.valid_signals() if isinstance(s, signal.Signals)},
        handlers={str(n): list(map(repr, logging.getLogger(n).handlers)) for n in (None, 'mmengine', 'torch')},
        std=[repr(sys.stdout), repr(sys.excepthook), repr(sys.displayhook)],
        functions=[members(m) for m in (torch, torch.serialization, torch.nn.functional, mmengine.runner,
                                        mmengine.runner.checkpoint, mmengine.hooks, mmengine.dist)],
        methods={c.__name__: methods(c) for c in (torch.nn.Module, torch.Tensor, torch.optim.Optimizer,
                                                  mmengine.runner.Runner, mmengine.hooks.Hook)})

def compare(name, imports):
    before = snapshot()
    exec(imports, {})
    after = snapshot()
    changed = {k: [before[k], v] for k, v in after.items() if v != before[k]}
    added = {name: sorted(set(v) - set(before['registries'][name])) for name, v in after['registries'].items()
             if v != before['registries'][name]}
    changed.pop('registries', None)
    print(json.dumps([name, added, changed]))

for name, beside, imports in CASES:
    exec(beside, {})
    process = multiprocessing.get_context('fork').Process(target=compare, args=(name, imports))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f'{name} failed')
'''
INSTALLED = [host for host in HOSTS if is_installed(host)]
OURS = {'MODELS': ['SwinTransformerV2', 'VideoSwinTransformerV2'],
        'OPTIM_WRAPPER_CONSTRUCTORS': ['SwinOptimWrapperConstructor']}
CHANGED = {'schemes', 'operations', 'methods', 'warnings'}


@pytest.fixture(scope='module')
def changes(tmp_path_factory):
    """What imports add to MMEngine's registries, and what else they change: by name of the case.

    One interpreter imports more and more; each case is a process forked from it.
    """
    cases = [('plugin', '', 'import mmswinv2'),
             ('repairs', '''import mmcv.transforms
with __import__("contextlib").suppress(ImportError): import mmpretrain
with __import__("contextlib").suppress(ImportError): import mmaction''',
              'import mmswinv2.engine.setup, mmswinv2.engine as e\n'
              '[repair() for repair in e.setup.REPAIRS]')]
    for host in INSTALLED:
        dumped = tmp_path_factory.mktemp(host) / 'dumped.py'
        Config.fromfile(CONFIGS / (HOSTS[host].mim or host) / '_base_' / 'default_runtime.py').dump(dumped)
        cases.append((f'config of {host}', '',
                      f'from mmengine.config import Config\nConfig.fromfile({str(dumped)!r})'))
    # models cannot be imported otherwise
    beside = ('import mmswinv2, mmswinv2.engine.repairs as r\n'
              'r.leave_out_multimodal_models(); r.leave_out_vindlu(); r.stand_in_for_drn()\n')
    for host in INSTALLED:
        cases.append((f'folder of {host}',
                      f'{beside}import {host}.models, {host}.datasets, {host}.evaluation, {host}.structures',
                      f'import mmswinv2.{HOSTS[host].folder} as folder\n'
                      '[getattr(folder, name) for name in folder.__all__]'))
    result = run_python(SNAPSHOT.replace('CASES', repr(cases)))
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('["')]
    assert len(found) == len(cases)
    return {name: (added, changed) for name, added, changed in found}


def test_importing_registers_names_and_nothing_else(changes):
    assert changes['plugin'] == (OURS, {})


@pytest.mark.parametrize('host', INSTALLED)
def test_a_folder_of_a_host_changes_nothing_either(host, changes):
    assert changes[f'folder of {host}'] == ({}, {})


def test_torchvision_does_not_warn_of_a_broken_installation():
    """Beside a torch that it was not built for."""
    image = pytest.importorskip('torchvision.io.image')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        silence_torchvision()
        importlib.reload(image)
        warnings.warn('another', UserWarning)
    assert [str(w.message) for w in seen] == ['another']


def test_the_repairs_are_these(changes):
    added, changed = changes['repairs']
    assert added == OURS and set(changed) == CHANGED
    before, after = ({k: v[i] for k, v in changed.items()} for i in (0, 1))
    assert different(before['schemes'], after['schemes']) == {'', 'http://', 'https://'}
    for table in ('_DEFAULT_SUPPORTED_FLOP_OPS', '_DEFAULT_SUPPORTED_ACT_OPS'):
        assert different(before['operations'].pop(table), after['operations'].pop(table)) == {
            'aten::scaled_dot_product_attention'}
    assert before['operations'] == after['operations']
    assert different(before['methods'].pop('Runner'), after['methods'].pop('Runner')) == {'wrap_model'}
    assert before['methods'] == after['methods']
    assert len(after['warnings']) == len(before['warnings']) + 2


@pytest.mark.parametrize('host', INSTALLED)
def test_each_config_asks_for_them(host, changes):
    """And one that was dumped."""
    added, changed = changes[f'config of {host}']
    assert added == OURS and set(changed) == CHANGED


def different(before, after):
    """Keys whose values differ."""
    return {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}


def test_reading_a_run_leaves_torchs_list_as_it_was(tmp_path):
    """Also what a user put on it."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    torch.save(dict(state_dict={}, history=HistoryBuffer([1.], [1])), tmp_path / 'a.pth')
    (name, value), *_ = loading.safe_globals().items()
    with torch.serialization.safe_globals([(value, name), np.ndarray]):
        before = set(torch.serialization.get_safe_globals())
        assert loading.read_run(tmp_path / 'a.pth')['history'].mean() == 1
        assert set(torch.serialization.get_safe_globals()) == before


def test_a_count_that_mmengine_has_stays(monkeypatch):
    """And where it has no tables of that name, attention is not silently counted as nothing."""
    names = ['_DEFAULT_SUPPORTED_FLOP_OPS', '_DEFAULT_SUPPORTED_ACT_OPS']
    for name in names:
        monkeypatch.setattr(complexity_analysis, name, {'aten::scaled_dot_product_attention': 'its own'})
    count_fused_attention()
    for name in names:
        assert getattr(complexity_analysis, name) == {'aten::scaled_dot_product_attention': 'its own'}
        monkeypatch.delattr(complexity_analysis, name)
    with pytest.warns(UserWarning, match="counts torch's fused attention as zero: this MMEngine has its handles else"):
        count_fused_attention()


def imported(package):
    """The modules of a package, each with those that it imports, in a function or for a type checker too.

    To import ``a.b.c`` is to run ``a`` and ``a.b`` before, and with them what they import; but not those that the
    importing module is in, which run already.
    """
    files = {'.'.join(path.relative_to(package.parent).with_suffix('').parts): path for path in package.rglob('*.py')}
    files = {name.removesuffix('.__init__'): path for name, path in files.items()}
    graph = {}
    for name, path in files.items():
        inside, found = name if path.stem == '__init__' else name.rpartition('.')[0], set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                module = resolve_name('.' * node.level + (node.module or ''), inside)
                found |= {f'{module}.{alias.name}' for alias in node.names if f'{module}.{alias.name}' in files}
                found |= {module for alias in node.names if f'{module}.{alias.name}' not in files}
        run = {parent for each in found for parent in accumulate(each.split('.'), '{}.{}'.format)
               if parent == each or not f'{name}.'.startswith(f'{parent}.')}
        graph[name] = files.keys() & run - {name}
    return graph


def test_no_import_runs_upwards():
    graph = imported(Path(__file__).parents[1] / 'mmswinv2')
    assert 'mmswinv2.core.swin_transformer_v2' in graph['mmswinv2.models.swin_transformer_v2'] | graph['mmswinv2.core']
    list(TopologicalSorter(graph).static_order())
    for name, found in graph.items():
        assert not name.startswith('mmswinv2.core.') or all(other.startswith('mmswinv2.core.') for other in found), name


@pytest.mark.parametrize('up', [
    'from . import high', 'from .high import x', 'import pack.high', 'from pack import high', 'from .sub.leaf import x',
    'from . import sub', 'def f():\n    from . import high', 'from . import y',
    'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .high import x'])
def test_such_imports_would_be_seen(up, tmp_path):
    files = dict(__init__='from .high import x as y', low=up, high='from . import low\nx = 1')
    (tmp_path / 'pack' / 'sub').mkdir(parents=True)
    (tmp_path / 'pack' / 'sub' / 'leaf.py').write_text('x = 1')
    (tmp_path / 'pack' / 'sub' / '__init__.py').write_text('from ..high import x')
    for name, text in files.items():
        (tmp_path / 'pack' / f'{name}.py').write_text(text)
    with pytest.raises(CycleError, match='pack.low'):
        list(TopologicalSorter(imported(tmp_path / 'pack')).static_order())


def test_private_names_of_torch_stand_in_one_file():
    """Of operators, torch.ops.aten, each name is torch's own."""
    core = Path(mmswinv2.__file__).parent / 'core'
    found = {path.relative_to(core).as_posix() for path in core.rglob('*.py')
             for name in re.findall(r'\btorch(?:\.\w+)*\._[a-zA-Z]', path.read_text()) if '.ops.' not in name}
    assert found == {'torch_compat.py'}
