"""Runtime: threads share the cores, work begins in advance, freed memory is kept, compilers."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from conftest import make_student, photo, whole
from torch import nn

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.runtime import (
    Runtime,
    Stopped,
    StopSignal,
    default_runtime,
    prefetch,
    require_package,
    say,
    side_by_side,
    start_runtime,
    thread_pool,
)


def test_of_several_processes_only_the_first_speaks_before_there_is_a_runtime(monkeypatch, capsys):
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        say(f"process {rank}")
    assert capsys.readouterr().out == "process 0\n"


def test_threads_side_by_side_share_the_cores_of_their_caller(four_cores, runtime):
    def cores():
        with side_by_side(runtime) as inner:
            return torch.get_num_threads(), inner.submit(torch.get_num_threads).result()

    with side_by_side(runtime) as pool:
        both = threading.Barrier(2, timeout=30)
        found = list(pool.map(lambda _: (both.wait(), cores())[1], range(2)))
        assert found == [(2, 1), (2, 1)] and torch.get_num_threads() == 4
    with side_by_side(runtime, 1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4
    with thread_pool(1) as later:  # what it finds is not what they left
        assert later.submit(torch.get_num_threads).result() == 4


def test_a_thread_keeps_its_cores_whatever_another_one_takes(four_cores):
    with thread_pool(1, 2) as pool, thread_pool(1, 1) as other:
        for thread in (pool, other):
            thread.submit(int).result()  # each has begun, and set its cores
        assert pool.submit(torch.get_num_threads).result() == 2


def test_one_thread_feeds_a_gpu(four_cores):
    def thread(_):
        time.sleep(0.05)
        return threading.get_ident()

    for device, count in (("cuda", 1), ("cpu", 2)):
        with side_by_side(Runtime(torch.device(device), torch.float32)) as pool:
            assert len(set(pool.map(thread, range(4)))) == count


def test_no_more_is_begun_in_advance_than_asked():
    begun = []
    with thread_pool(4) as pool:
        for count, (item, future) in enumerate(
            prefetch(pool, lambda i: begun.append(i) or i * i, range(20), lambda: 3)
        ):
            assert item == count and future.result() == count * count
            assert len(begun) <= count + 4
    with thread_pool(4) as pool:
        begun.clear()
        for count, _ in enumerate(prefetch(pool, begun.append, range(5), lambda: 0)):
            assert len(begun) == count + 1


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_runtime_has_the_device_precision_and_seed_that_it_is_given(name):
    with start_runtime("cpu", name, seed=3) as runtime:
        drawn = torch.rand(3)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert (runtime.device.type, runtime.dtype, runtime.world) == ("cpu", types[name], 1)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(3)))
    assert runtime.device_name == f"cpu, {torch.get_num_threads()} threads"


def test_the_default_runtime_is_what_auto_means():
    with start_runtime() as runtime:
        assert default_runtime() == runtime


def test_a_missing_package_says_how_to_install_it():
    with pytest.raises(SharpeningError, match="the package no_such_package: pip install"):
        require_package("no_such_package")


FAULTS = """
import resource
import torch
from sharpening.runtime import tune_malloc

def work():
    for _ in range(8):
        kept = torch.ones(6 * 2**20) + 1  # two blocks of 24 MiB at a time
        kept = kept * 2

tune_malloc()
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


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_computes_the_same(runtime):
    sizes = script.StudentConfig(stem=4, width=4, encoder=(0,), middle=1, decoder=(0,))
    student = make_student(sizes, strength=0.1)  # as trained: it changes the image
    image = photo(33, 17).astype(np.uint16) * 257
    config = script.InferenceConfig(backend="compiled")
    restored = script.Sharpener(student, runtime, config)(image).astype(int)
    np.testing.assert_allclose(restored, whole(student, image), atol=1)  # of 65,535
    assert np.abs(restored - image).max() > 600


def test_an_empty_name_of_the_compiler_means_the_usual_one(runtime, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SharpeningError, match=r"the compiler g\+\+"):
        runtime.compiled(nn.Identity())


def test_without_a_compiler_compiling_is_refused(runtime, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SharpeningError, match="the compiler no-such-compiler"):
        runtime.wrap(nn.Identity(), compiled=True)


def test_a_signal_between_two_steps_is_no_matter_of_patience(runtime):
    with StopSignal(runtime) as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        start = time.monotonic()
        with stop.interruptible():
            pass
        with pytest.raises(Stopped):
            stop.check()
    assert time.monotonic() - start < 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
