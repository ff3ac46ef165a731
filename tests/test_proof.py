"""Kernels prove themselves before ``auto`` takes them: with stand-ins on a CPU, which are wrong in each way."""
import re
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch

from helpers import stand_ins
from helpers.attention import asked, problem
from helpers.stand_ins import Wrong, attend
from helpers.versions import needs_torch_2_4
from mmswinv2 import __main__ as cli
from mmswinv2.core.attention import choose, proof, window_attention
from mmswinv2.core.grid import Axis

pytestmark = pytest.mark.core

TESTS = Path(__file__).parent
FAULTS = {
    'an index': (Wrong(stand_ins.swap),
                 r'out of 4 rows is off by up to \d.*, allowed 0.25; the first is \(3, 2, 0\), by token and head'),
    'a missing row': (Wrong(stand_ins.skip), r'out of 2 rows is .*\(8, 8, 0\)'),
    'a missing gradient': (Wrong(None, stand_ins.skip_gradients), r'dk of \d+ rows is .*\(0, \d+, 0\)'),
    'a missing part of a sum': (Wrong(None, stand_ins.shrink), 'dtable is off by 0.1, allowed 0.031'),
    'not a number': (Wrong(None, stand_ins.nan), 'dscale is off by nan, allowed 0.25'),
    'different bits': (Wrong(stand_ins.race), 'out had other bits in a second run'),
    'no compiler': (Wrong(stand_ins.no_compiler), 'RuntimeError: Failed to find C compiler.*variable.'),
    'no compiler, backward': (Wrong(None, stand_ins.no_compiler), 'RuntimeError: Failed to find C compiler'),
}


@pytest.fixture
def on_gpu(tmp_path):
    """:func:`stand_ins.gpu` with its files in a folder of the test."""
    return lambda **kernels: stand_ins.gpu(tmp_path, **kernels)


@pytest.fixture(autouse=True)
def strict():
    """A warning that no test expects is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def same(a, b):
    """Whether results have the same bits."""
    return all(map(torch.equal, a, b))


def test_a_kernel_that_is_right_is_taken_and_checked_once(on_gpu):
    expected, state = attend(backend='cells'), torch.get_rng_state()
    with on_gpu() as kernels:
        assert same(attend(), expected) and kernels['triton'].calls == 4 + 2
        assert same(attend(), expected) and kernels['triton'].calls == 4 + 4 and not kernels['torch'].calls
        verdict, = proof.VERDICTS.values()
    assert verdict.reason is None and verdict.seconds > 0
    assert verdict.errors.keys() == {'out', 'dq', 'dk', 'dv', 'dtable', 'dscale'} and max(verdict.errors.values()) < .01
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('fault', FAULTS)
def test_a_kernel_that_is_wrong_is_not_taken(fault, on_gpu):
    """One warning; the next backend gives the result, forward and backward."""
    wrong, reason = FAULTS[fault]
    expected = attend(backend='cells')
    with on_gpu(triton=wrong) as kernels:
        with pytest.warns(UserWarning) as seen:
            assert same(attend(), expected)
        calls = wrong.calls
        assert same(attend(), expected)  # without another warning
        assert wrong.calls == calls and kernels['torch'].calls == 4 + 4
    warning, = seen
    assert re.fullmatch(r"attn_backend='auto' does not use 'triton' on Stand-in \(bfloat16, window 4 x 4, 2 heads of "
                        rf"16\): {reason}.*; 'torch' is used. See python -m mmswinv2 --info; MMSWINV2_PROVE=0 takes it "
                        'unproved', str(warning.message))


def test_cells_are_left_where_all_kernels_are_wrong(on_gpu):
    expected = attend(backend='cells')
    with on_gpu(triton=Wrong(stand_ins.skip), torch=Wrong(stand_ins.swap)):
        with pytest.warns(UserWarning, match="does not use '(triton|torch)'.*'cells' is used") as seen:
            assert same(attend(), expected)
    assert len(seen) == 2


def test_a_kernel_that_is_named_is_taken_as_it_is(on_gpu):
    with on_gpu(triton=Wrong(stand_ins.skip)) as kernels:
        assert not attend(backend='triton')[0][:, -1, -1].any()
        assert kernels['triton'].calls == 2 and not proof.VERDICTS


def test_the_switch(on_gpu, monkeypatch):
    with on_gpu(triton=Wrong(stand_ins.skip)) as kernels:
        monkeypatch.setenv('MMSWINV2_PROVE', 'no')
        with pytest.raises(ValueError, match="MMSWINV2_PROVE must be one of 0, 1, error, got 'no'"):
            attend()
        monkeypatch.setenv('MMSWINV2_PROVE', 'error')
        with pytest.raises(RuntimeError, match="attention kernel 'triton' failed on Stand-in .*, and MMSWINV2_PROVE="
                                               'error: out of 2 rows'):
            attend()
        calls = kernels['triton'].calls
        monkeypatch.setenv('MMSWINV2_PROVE', '0')
        assert not attend()[0][:, -1, -1].any() and kernels['triton'].calls == calls + 2


def test_nothing_is_checked_on_a_cpu(on_gpu):
    is_checked = proof.is_checked
    with on_gpu(triton=Wrong(stand_ins.skip)) as kernels, mock.patch.object(proof, 'is_checked', is_checked):
        attend()
        assert kernels['triton'].calls == 2 and not proof.VERDICTS


def test_nothing_is_checked_while_a_graph_is_captured(on_gpu, monkeypatch):
    with on_gpu() as kernels:
        monkeypatch.setattr(proof, 'may_keep', lambda device: False)
        with pytest.warns(UserWarning, match="auto' takes 'cells' on Stand-in .* in a CUDA graph, since 'triton' had "
                                             'not run before: run the model once before it is captured'):
            attend()
        assert not kernels['triton'].calls and not proof.VERDICTS
        monkeypatch.undo()
        attend()
        monkeypatch.setattr(proof, 'may_keep', lambda device: False)
        attend()  # what is known is taken
        assert kernels['triton'].calls == 4 + 2 + 2


def test_too_little_memory_is_no_failure(on_gpu):
    def fail(*results):
        kernels['triton'].forward = None
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')
    expected = attend(backend='cells')
    with on_gpu(triton=Wrong(fail)) as kernels:
        assert same(attend(), expected)
        verdict, = proof.VERDICTS.values()  # of the backward pass, which tried again
        assert verdict.reason is None


def test_windows_that_small_maps_cut_are_one_kind(on_gpu):
    with on_gpu():
        for lengths, window in (((13, 11), (16, 16)), ((9, 5), (16, 16)), ((8, 24), (8, 8)), ((24, 8), (8, 8))):
            tensors, options = problem(lengths, window, num_heads=2, dim=16, dtype=torch.float16)
            window_attention(**tensors, **options)
        assert [kind[3] for kind in proof.VERDICTS] == [(15, 15), (8, 8)]


@needs_torch_2_4('its compiler knows no dataclasses')
def test_a_compiled_graph_asks_when_it_runs(on_gpu):
    tensors, options = problem((7, 6), (4, 4), num_heads=2, dim=16, dtype=torch.bfloat16)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        assert not proof.VERDICTS
        return graph.forward
    with on_gpu(triton=Wrong(stand_ins.skip)), torch.no_grad():
        call = torch.compile(lambda: window_attention(**tensors, **options), backend=keep, fullgraph=True)
        with pytest.warns(UserWarning, match="does not use 'triton'.*'torch' is used"):
            out = call()
    names = [node.args[-1] for graph in graphs for node in graph.graph.nodes
             if node.target is torch.ops.mmswinv2.window_attention.default]
    assert names == ['triton?'] and torch.equal(out, attend(backend='cells')[0])


CRASH = '''
import os, sys
from helpers import stand_ins
with stand_ins.gpu(sys.argv[1], triton=stand_ins.Wrong(lambda *results: os._exit(9))):
    stand_ins.attend()
'''


def test_a_kernel_that_ended_a_process_is_not_tried_again(on_gpu, tmp_path):
    """By the file that the process left, until it is removed."""
    benchmarks = TESTS.parent / 'benchmarks'
    code = f'import sys; sys.path[:0] = [{str(TESTS)!r}, {str(benchmarks)!r}]' + CRASH
    assert subprocess.run([sys.executable, '-c', code, tmp_path], timeout=120).returncode == 9
    file, = (tmp_path / 'mmswinv2').iterdir()
    assert file.read_text().startswith('triton on Stand-in, torch ')
    with on_gpu() as kernels:
        with pytest.warns(UserWarning, match=f'it ended a process before; remove {re.escape(str(file))} to try'):
            attend()
        assert not kernels['triton'].calls and kernels['torch'].calls
    file.unlink()
    with on_gpu() as kernels:
        attend()
        assert kernels['triton'].calls and not list(file.parent.iterdir())


def test_a_kernel_that_spoils_the_device_is_an_error_and_leaves_its_file(on_gpu, tmp_path):
    with on_gpu(triton=Wrong(stand_ins.no_compiler)), mock.patch.object(proof, 'is_spoiled', lambda device: True):
        with pytest.raises(RuntimeError, match="attention kernel 'triton' made Stand-in .* unusable: RuntimeError: "
                                               "Failed .*; start again: attn_backend='auto' will not take it"):
            attend()
    assert len(list((tmp_path / 'mmswinv2').iterdir())) == 1
    with on_gpu(), pytest.warns(UserWarning, match='it ended a process before'):
        attend()


def test_a_process_that_still_tries_has_not_ended(on_gpu, tmp_path):
    with on_gpu(), proof._marked('a', torch.device('cpu')) as none, proof._marked('a', torch.device('cpu')) as left:
        assert none == left == [] and len(list((tmp_path / 'mmswinv2').iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_no_failure(on_gpu, tmp_path):
    (tmp_path / 'mmswinv2').write_text('a file')
    with on_gpu() as kernels:
        attend()
        assert kernels['triton'].calls


@pytest.mark.parametrize('axis, expected', [(Axis(64, 8, 4), Axis(19, 8, 4)), (Axis(96, 32), Axis(55, 32, 16)),
                                            (Axis(8, 8), Axis(19, 8, 4)), (Axis(25, 25), Axis(15, 15)),
                                            (Axis(9, 2, 1), Axis(4, 2, 1)), (Axis(1, 1), Axis(1, 1))])
def test_the_map_has_a_cell_of_each_kind(axis, expected):
    assert proof._axis(axis) == expected


def test_the_name_that_is_told_is_that_of_the_kernel(on_gpu):
    with on_gpu():
        assert choose(asked(*problem((8, 8), (4, 4), dim=16, dtype=torch.bfloat16))).name == 'triton'


def test_info_tries_the_kernels(on_gpu, monkeypatch):
    """Of each of its cases, here of one, with what is wrong or the time and the errors."""
    monkeypatch.setattr(cli, 'CASES', [('a case', (64, 64), (4, 4))] * 3)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Stand-in')
    example = cli.example
    monkeypatch.setattr(cli, 'example', lambda tokens, window, dtype, device: example(
        tokens, window, torch.bfloat16, torch.device('cpu')))
    with on_gpu(torch=Wrong(stand_ins.skip)):
        text = '\n'.join(cli.report())
    assert re.search(r'a case +triton\n'
                     r'    triton: proved in \d+ ms, errors out \de-0\d dq \S+ dk \S+ dv \S+ dtable \S+ dscale \S+\n'
                     r'    torch: out of 3 rows is off by ', text), text
