"""Runtime: each stream has its cores; freed memory is kept for the next allocation."""

import os
import platform
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import main_sharpening_script as script


def test_streams_share_the_cores_of_their_thread(four_cores, runtime):
    def cores():
        with script.streams(runtime) as inner:
            return torch.get_num_threads(), inner.submit(torch.get_num_threads).result()

    with script.streams(runtime) as pool:
        side_by_side = threading.Barrier(2, timeout=30)
        found = list(pool.map(lambda _: (side_by_side.wait(), cores())[1], range(2)))
        assert found == [(2, 1), (2, 1)] and torch.get_num_threads() == 4
    with script.streams(runtime, 1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4
    with script.thread_pool(1) as later:  # what it finds is not what the streams left
        assert later.submit(torch.get_num_threads).result() == 4


def test_a_stream_keeps_its_cores_whatever_another_thread_takes(four_cores):
    with script.thread_pool(1, 2) as pool, script.thread_pool(1, 1) as other:
        for thread in (pool, other):
            thread.submit(int).result()  # each has begun, and set its cores
        assert pool.submit(torch.get_num_threads).result() == 2


def test_one_stream_feeds_a_gpu(four_cores):
    with script.streams(script.Runtime(torch.device("cuda"), torch.float32)) as pool:
        assert pool._max_workers == 1


FAULTS = """
import resource
import torch
import main_sharpening_script as script

def work():
    for _ in range(20):
        kept = torch.ones(6 * 2**20) + 1  # two blocks of 24 MiB at a time
        kept = kept * 2

script.keep_memory()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_used_again_unless_the_environment_says_otherwise():
    def page_faults(**environment):
        kept = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", FAULTS]
        run = subprocess.run(
            command, cwd=script.HERE, env=kept | environment, capture_output=True, check=True
        )
        return int(run.stdout)

    assert 5 * page_faults() < page_faults(MALLOC_MMAP_THRESHOLD_="131072")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_computes_the_same(runtime):
    sizes = script.StudentConfig(stem=4, width=4, encoder=(0,), middle=1, decoder=(0,))
    student = script.SEUNet(sizes).eval().requires_grad_(False)
    nn.init.normal_(student.last.weight, std=0.1)  # as trained: it changes the image
    net = script.deployed(student, script.InferConfig(backend="compiled"), runtime)
    blurry = torch.rand(1, 3, 33, 17)
    restored = net(blurry)
    torch.testing.assert_close(restored, student(blurry), atol=1e-5, rtol=0)
    assert not torch.allclose(restored, blurry, atol=1e-2)


def test_an_empty_name_of_the_compiler_means_the_usual_one(runtime, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    with pytest.raises(script.SharpeningError, match=r"the compiler g\+\+"):
        runtime.compiled(nn.Identity())


def test_without_a_compiler_compiling_is_refused(runtime, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(script.SharpeningError, match="the compiler no-such-compiler"):
        runtime.wrap(nn.Identity(), compiled=True)
