"""What is decided about a GPU where there is none: which one, in which precision, and what its faults are called."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from law_cases import each
from pydantic import ValidationError

from lossbench import gpus
from lossbench.checking import check_compute
from lossbench.errors import GateError, UserError
from lossbench.execution import identity, local
from lossbench.recipe import Compute
from lossbench.training.determinism import SWITCH, check_workspace, deterministic, recurrent_in_float32
from lossbench.training.dropout import draw_masks
from lossbench.training.faults import GONE, LESS, lost, of_the_device
from lossbench.training.member import at_most

MIG = "MIG-3bd3d1a8-0c1b-5c2e-9b1c-000000000001,MIG-3bd3d1a8-0c1b-5c2e-9b1c-000000000002"


@each(
    ("visible", "device", "sees"),
    [
        (None, "cuda:1", "1"),
        (None, "cuda:0,2", "0,2"),
        (None, "cuda:GPU-8932f937", "GPU-8932f937"),
        ("4,7", "cuda:1", "7"),
        ("GPU-aa,GPU-bb", "cuda:GPU-b", "GPU-bb"),
        (MIG, "cuda:1", MIG.split(",")[1]),
        ("3", "cuda", "3"),
        ("3", "cpu", "3"),
        ("4, 7", "cuda:1", "7"),
        ("4,7,-1,9", "cuda:7", None),
        (" GPU-aa, GPU-bb", "cuda:GPU-bb,GPU-aa", "GPU-bb,GPU-aa"),
        ("GPU-a,GPU-ab", "cuda:GPU-a", "GPU-a"),
    ],
)
def test_a_gpu_is_named_by_number_or_name(
    visible: str | None, device: str, sees: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    if sees is None:
        with pytest.raises(UserError, match=r"leaves us 2: 4, 7; allowed: a number below 2"):
            gpus.choose(device)
        return
    assert gpus.choose(device) == device.partition(":")[0]
    assert gpus.os.environ[gpus.VISIBLE] == sees


@each("device", ["gpu", "cuda:", "cuda:x", "cuda:1,", "cpu:0", "cuda:2", "cuda:-1"])
def test_another_gpu_is_refused_in_a_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "4,7")
    with pytest.raises(UserError, match=r"^--device is .*allowed: "):
        gpus.choose(device)
    assert gpus.os.environ[gpus.VISIBLE] == "4,7"


@each(
    ("visible", "device", "words"),
    [
        ("", "cuda:0", "is '', which hides all GPUs"),
        ("-1", "cuda:0", "is '-1', which hides all GPUs"),
        ("NoDevFiles", "cuda:GPU-aa", "which hides all GPUs"),
        ("4,7", "cuda:1,1", "names a GPU twice"),
        (None, "cuda:0,0", "names a GPU twice"),
        (None, "cuda:0,GPU-aa", "in several ways, of which CUDA reads the first alone"),
        (
            "GPU-aab,GPU-aac",
            "cuda:GPU-aa",
            "begins several of CUDA_VISIBLE_DEVICES's names: GPU-aab, GPU-aac",
        ),
    ],
)
def test_a_gpu_that_is_hidden_named_twice_or_ambiguously_is_refused(
    visible: str | None, device: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    with pytest.raises(UserError, match=words):
        gpus.choose(device)
    assert gpus.os.environ.get(gpus.VISIBLE) == visible


@each(
    ("visible", "found", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("0, 1", 2, ["0", "1"]),
        ("3,-1,0", 1, ["3"]),
        ("0,0", 0, []),
        ("GPU-aa,GPU-bb", 1, ["GPU-aa"]),
    ],
)
def test_workers_are_given_the_gpus_that_cuda_reads(
    visible: str | None, found: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More workers than GPUs take turns; where there is none there is one worker, which is told so."""
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert gpus.ours() == expected
    compute = Compute(device="cuda")
    assert local.worker_count(compute) == max(1, len(expected))
    executor = local.LocalExecutor(compute, 3)
    given = [executor._environment(place).get(gpus.VISIBLE) for place in range(3)]
    assert given == [expected[place % len(expected)] if expected else None for place in range(3)]


@pytest.mark.parametrize(
    ("said", "visible", "words"),
    [
        ("The NVIDIA driver on your system is too old (found version 12020). Please update", None, "is too old (found version 12020)); allowed: cpu"),
        ("No CUDA GPUs are available", "-1", "here (No CUDA GPUs are available; CUDA_VISIBLE_DEVICES is '-1'); allowed"),
    ],
    ids=["driver", "hidden"],
)  # fmt: skip
def test_why_there_is_no_gpu_is_said(
    said: str, visible: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", Mock(side_effect=RuntimeError(said)))
    with pytest.raises(UserError) as told:
        check_compute(Compute(device="cuda"))
    assert words in str(told.value)


def test_products_chosen_by_a_stopwatch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv("PYTORCH_TUNABLEOP_ENABLED", "1")
    with pytest.raises(UserError, match=r"^PYTORCH_TUNABLEOP_ENABLED is '1'.*allowed: 0, or unset"):
        check_compute(Compute(device="cuda"))
    monkeypatch.setenv("PYTORCH_TUNABLEOP_ENABLED", "0")
    check_compute(Compute(device="cuda"))


def test_mig_instances_are_all_ours_though_cuda_shows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    monkeypatch.setenv(gpus.VISIBLE, MIG)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    compute = Compute(device="cuda")
    assert gpus.ours() == MIG.split(",")
    assert local.worker_count(compute) == 2
    assert [local.sharing(compute, workers) for workers in (1, 2, 3, 4)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("device", "sharers", "kept"), [("cuda", 4, [0.25]), ("cuda", 1, []), ("cpu", 4, [])]
)
def test_who_shares_a_gpu_takes_no_more_than_its_part(
    device: str, sharers: int, kept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    gpus.keep_to_part(device, sharers)
    assert asked == kept


def test_which_gpu_is_no_part_of_params() -> None:
    with pytest.raises(ValidationError, match=r"--device cuda:1.*CUDA_VISIBLE_DEVICES=1"):
        Compute(device="cuda:1")  # type: ignore[arg-type]  # refused, as it should be


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match=r"'tf32', which GPUs alone.*allowed on the cpu: fp32, bf16"):
        check_compute(Compute(precision="tf32"))


def test_bf16_is_refused_on_a_gpu_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setenv(SWITCH, ":4096:8")
    check_compute(Compute(device="cuda"))
    with pytest.raises(UserError, match=r"'bf16', but Tesla T4 \(capability 7\).*allowed here: fp32"):
        check_compute(Compute(device="cuda", precision="bf16"))


@pytest.mark.parametrize("value", ["junk", "", ":4096:8:16:8", "4096:8"])
def test_a_workspace_that_need_not_repeat_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    with pytest.raises(UserError, match=r"^CUBLAS_WORKSPACE_CONFIG is .*allowed: :4096:8, :16:8, :4096:2"):
        check_workspace()


@pytest.mark.parametrize(
    ("device", "change", "named"),
    [
        ("cpu", lambda: torch.use_deterministic_algorithms(False), "torch.use_deterministic_algorithms"),
        ("cuda", lambda: torch.use_deterministic_algorithms(True, warn_only=True), "torch.use_deterministic_algor"),
        ("cuda", lambda: setattr(torch.backends.cudnn, "benchmark", True), "torch.backends.cudnn.benchmark"),
        ("cuda", lambda: torch.set_float32_matmul_precision("high"), "the precision of torch.backends.cuda.matmul"),
        ("cuda", lambda: setattr(torch.backends.cudnn, "allow_tf32", True), "the precision of torch.backends.cudnn"),
    ],
    ids=["cpu", "warn_only", "benchmark", "matmul", "allow_tf32"],
)  # fmt: skip
def test_own_code_that_switches_torch_otherwise_is_refused(
    device: str, change: Callable[[], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed in part without deterministic algorithms would stand under the key of what repeats."""
    monkeypatch.setenv(SWITCH, ":4096:8")
    before = (torch.get_deterministic_debug_mode(), torch.backends.cuda.matmul.fp32_precision)
    with pytest.raises(UserError) as told, deterministic(Compute(device=device)):  # type: ignore[arg-type]  # one of them
        change()
    assert f"your own switches {named}" in str(told.value)
    assert (torch.get_deterministic_debug_mode(), torch.backends.cuda.matmul.fp32_precision) == before
    assert not torch.backends.cudnn.benchmark


def test_a_cpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "junk")
    convolutions = torch.backends.cudnn.conv.fp32_precision
    with deterministic(Compute()):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.conv.fp32_precision == convolutions
    layer = torch.nn.LSTM(2, 2)
    forward = layer.forward
    assert recurrent_in_float32(layer, Compute(precision="bf16")).forward == forward


OUT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is "
    "free. Including non-PyTorch memory, this process has 77.80 GiB memory in use."
)


SHARED = (
    "CUDA out of memory. Tried to allocate 5.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 8.00 GiB is free. "
    "4.00 GiB allowed; Of the allocated memory 0 bytes is allocated by PyTorch, and 0 bytes is reserved by PyTorch"
)
"""What torch 2.15 says where a process has a part of a GPU's memory."""
REJECTED = (
    "CUDA out of memory. Allocation was preemptively rejected because it would exceed per_process_memory_fraction "
    "limit. Requested size: 5.00 GiB"
)


@each(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError(OUT), GateError, "(2.00 GiB more were wanted, 1.25 GiB of 79.10 GiB are free); lower"),
        (torch.OutOfMemoryError(SHARED), GateError, "(5.00 GiB more were wanted, of the 4.00 GiB of 8.00 GiB that it may"),
        (torch.OutOfMemoryError(REJECTED), GateError, "does not fit into the GPU's memory (5.00 GiB more were wanted); lower"),
        (RuntimeError("CUDA driver error: out of memory"), GateError, "does not fit into the GPU's memory; lower"),
        (RuntimeError("CUDA driver error: unknown error"), GateError, "failed on the GPU with 'unknown error'; CUDA_LAUNCH"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered\nSearch"), GateError, "('uncorrectable ECC error encountered'), which no"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), GateError, "failed in cuDNN, which has no"),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `x`"), GateError, "in cusolver with CUSOLVER"),
        (RuntimeError("CUDA NVRTC error: NVRTC_ERROR_COMPILATION"), GateError, "failed in CUDA NVRTC with NVRTC_ERROR_COMP"),
        (RuntimeError("CUDA error: out of memory\nSearch for"), GateError, "does not fit into the GPU's memory; lower"),
        (RuntimeError("CUDA error: device-side assert triggered\nMore"), GateError, "an index out of range"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), GateError, "in cuDNN with CUDNN_STATUS_EXECUTION_F"),
        (RuntimeError("cuDNN Frontend error: CUDNN_BACKEND_API_FAILED: CUDNN_STATUS_BAD_PARAM"), GateError, "cuDNN with"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), GateError, "with CUBLAS_STATUS_ALLOC"),
        (RuntimeError("foo_cuda does not have a deterministic implementation, but you set"), UserError, "runs foo_cuda"),
        (RuntimeError("median CUDA with indices output does not have a deterministic implementation, but"), UserError, "runs median CUDA with indices output, which"),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), GateError, "failed in cuDNN, which has no"),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), GateError, "in cuFFT with CUFFT_ALLOC_FAILED"),
    ],
)  # fmt: skip
def test_a_fault_of_the_gpu_is_one_sentence(error: RuntimeError, kind: type[Exception], words: str) -> None:
    told = of_the_device(error, "the training of 'one' with seed 3")
    assert type(told) is kind
    assert str(told).startswith("the training of 'one' with seed 3 ")
    assert words in str(told)
    assert "\n" not in str(told)


RUNTIME = {  # cudaGetErrorString's words for some of its numbers, and what is made of them
    2: ("out of memory", "does not fit into the GPU's memory; lower"),
    3: ("initialization error", "cannot start CUDA on the GPU ("),
    35: ("CUDA driver version is insufficient for CUDA runtime version", "meets a driver that does not fit"),
    46: ("CUDA-capable device(s) is/are busy or unavailable", "may not use the GPU ("),
    53: ("unspecified launch failure in prior launch", "had a kernel fail"),
    98: ("invalid device function", "finds no kernels for this GPU"),
    100: ("no CUDA-capable device is detected", "cannot start CUDA on the GPU ("),
    101: ("invalid device ordinal", "cannot start CUDA on the GPU ("),
    200: ("device kernel image is invalid", "finds no kernels for this GPU"),
    209: ("no kernel image is available for execution on the device", "finds no kernels for this GPU"),
    214: ("uncorrectable ECC error encountered", "met a fault of the GPU itself ("),
    220: ("uncorrectable NVLink error detected during the execution", "met a fault of the GPU itself ("),
    222: ("the provided PTX was compiled with an unsupported toolchain.", "meets a driver that does not fit"),
    700: ("an illegal memory access was encountered", "had a kernel fail"),
    701: ("too many resources requested for launch", "asks for more than a kernel of this GPU can do"),
    702: ("the launch timed out and was terminated", "ran a kernel for longer than the GPU"),
    710: ("device-side assert triggered", "met an index out of range on the GPU"),
    714: ("hardware stack error", "met a fault of the GPU itself ("),
    716: ("misaligned address", "had a kernel fail"),
    719: ("unspecified launch failure", "had a kernel fail"),
    802: ("system not yet initialized", "cannot start CUDA on the GPU ("),
    803: (
        "system has unsupported display driver / cuda driver combination",
        "meets a driver that does not fit",
    ),
    900: ("operation not permitted when stream is capturing", "does what cannot be recorded as a CUDA graph"),
    999: ("unknown error", "failed on the GPU with 'unknown error'"),
}
NCCL = {  # the same of ncclGetErrorString
    1: ("unhandled cuda error (run with NCCL_DEBUG=INFO for details)", "failed in NCCL"),
    2: ("unhandled system error (run with NCCL_DEBUG=INFO for details)", "had a call of the system refused to NCCL"),
    3: ("internal error - please report this issue to the NCCL developers", "failed in NCCL"),
    5: ("invalid usage (run with NCCL_DEBUG=WARN for details)", "has two processes on one GPU"),
    6: ("remote process exited or there was a network error", "waited for another of its processes"),
    8: ("timeout", "waited for another of its processes"),
}  # fmt: skip


def of_cuda(name: str, function: str) -> Callable[[int], str]:
    """A function of a library of CUDA's that puts an error's number into words: it needs no GPU."""
    folders = (find_spec("nvidia") or Mock(submodule_search_locations=[])).submodule_search_locations
    files = [file for folder in folders or [] for file in Path(folder).rglob(f"{name}.so.*")]
    if not files:
        pytest.skip(f"{name}, which torch's own CUDA packages bring along, is not installed")
    words = getattr(ctypes.CDLL(str(files[0])), function)
    words.restype = ctypes.c_char_p
    return lambda number: str(words(number).decode())


def sentence(text: str) -> str:
    told = of_the_device(RuntimeError(text), "it")
    assert type(told) is GateError, text
    assert "\n" not in str(told)
    return str(told)


@each("number", RUNTIME)
def test_what_the_runtime_says_is_told_with_what_to_do(number: int) -> None:
    said, words = RUNTIME[number]
    for whole in (
        f"CUDA error: {said}\nSearch for `cuda' in https://docs.nvidia.com\nCUDA kernel errors might be",
        f"CUDA driver error: {said}",
        f"Traceback (most recent call last):\n  File\ntorch.AcceleratorError: CUDA error: {said}\nSearch",
        f"NCCL error in: a.cpp:12, {NCCL[1][0]}, NCCL version 2.28.9\nLast error:\nCuda failure {number} '{said}'",
    ):
        assert sentence(whole).startswith(f"it {words}")
        assert lost(RuntimeError(whole)) is (number != 2), "only memory can be freed"
    if number not in (2, 710, 719):
        assert LESS not in sentence(f"CUDA error: {said}") or number in (701, 702), "it is no want of memory"


def test_the_runtime_says_what_stands_in_the_table_and_nothing_else_goes_untold() -> None:
    words = of_cuda("libcudart", "cudaGetErrorString")
    assert {number: words(number) for number in RUNTIME} == {
        number: said for number, (said, _) in RUNTIME.items()
    }
    for said in {words(number) for number in range(1, 1000)}:
        assert sentence(f"CUDA error: {said}\nSearch for").startswith("it ")
    network = of_cuda("libnccl", "ncclGetErrorString")
    assert {number: network(number) for number in NCCL} == {
        number: said for number, (said, _) in NCCL.items()
    }


@each("number", NCCL)
def test_what_nccl_says_is_told_with_what_to_do(number: int) -> None:
    """Who has only lost another says so; what NCCL itself met is no lost connection."""
    said, words = NCCL[number]
    whole = (
        f"NCCL error in: a.cpp:12, {said}, NCCL version 2.28.9\nncclX: it failed.\nLast error:\nsome words"
    )
    assert sentence(whole).startswith(f"it {words}")
    assert sentence(whole).endswith("('some words')")
    assert (GONE.search(whole) is not None) is (number in (6, 8))
    assert lost(RuntimeError(whole))


@each(
    ("text", "words"),
    [
        ("[PG ID 0 PG GUID 0(default_pg) Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, "
         "OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600029 milliseconds before timing out.", "waited for another"),
        ("NCCL communicator was aborted on rank 0.", "waited for another"),
        ("NCCL error in: a.cpp:1, unhandled system error, NCCL version 2\nLast error:\nsocket: Connection closed by "
         "remote peer", "waited for another"),
        ("NCCL error in: a.cpp:1, invalid usage, NCCL version 2\nLast error:\nDuplicate GPU detected : rank 0 and rank 1",
         "has two processes on one GPU"),
        ("The NVIDIA driver on your system is too old (found version 12020). Please update", "meets a driver that"),
        ("Found no NVIDIA driver on your system. Please check that", "cannot start CUDA"),
        ("No CUDA GPUs are available", "cannot start CUDA"),
        ("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before? Error 802: system not yet "
         "initialized", "cannot start CUDA"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", "cannot start CUDA"),
        ("NVRM: GPU has fallen off the bus", "met a fault of the GPU itself"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "failed in CUDA with CUBLAS_STATUS_"
         "ALLOC_FAILED: it found no memory; lower"),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `x`", "failed in CUDA with CUBLAS_STATUS_NOT_SUPPORTED: it has no"),
        ("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `x`", "failed in CUDA with CUBLAS_STATUS_INVALID_VALUE: it refuses"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`", "failed in CUDA with CUBLAS_STATUS_EXECUTION_FAILED: a ke"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "failed in cuDNN with CUDNN_STATUS_NOT_INITIALIZED: it could not"),
        ("cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH", "failed in cuDNN with CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH: it d"),
        ("cuDNN error: CUDNN_STATUS_BAD_PARAM", "failed in cuDNN with CUDNN_STATUS_BAD_PARAM: it refuses"),
    ],
)  # fmt: skip
def test_what_torch_and_its_libraries_say_is_told_with_what_to_do(text: str, words: str) -> None:
    assert sentence(text).startswith(f"it {words}")


@each(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "my loss met a CUDA error: see the log",
        "no device-side assert was expected",
        "an illegal instruction stands in the file of labels",
        "NCCL is not wanted here",
        "I asked for CUDNN_STATUS_SUCCESS",
        "the driver of the experiment is too old",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use 'spawn'",
    ],
)
def test_other_errors_are_no_fault_of_the_gpu(text: str) -> None:
    assert of_the_device(RuntimeError(text)) is None
    assert not lost(RuntimeError(text))
    assert of_the_device(ValueError("CUDA error: x")) is None


def test_a_process_whose_gpu_is_lost_ends_and_one_short_of_memory_goes_on() -> None:
    told = GateError("one sentence")
    told.__cause__ = RuntimeError("CUDA error: device-side assert triggered")
    assert lost(told)
    told.__cause__ = torch.OutOfMemoryError(OUT)
    assert not lost(told)


def test_the_key_holds_the_gpu_its_driver_and_its_switches(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Mock(name="properties", major=9, minor=0, multi_processor_count=132)
    known.name = "NVIDIA H100"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: known)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv(SWITCH, raising=False)
    version = tmp_path / "version"  # type: ignore[operator]  # a path
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\n")
    monkeypatch.setattr(identity, "DRIVER_FILE", version)
    found = identity._gpu()
    assert found["driver"] == "580.65.06"
    assert (found["gpu"], found["capability"], found["multiprocessors"]) == ("NVIDIA H100", "9.0", "132")
    assert (found[SWITCH], found["NVIDIA_TF32_OVERRIDE"]) == (":4096:8", "0")


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("DNNL_MAX_CPU_ISA", "cpu"),
        ("CUBLAS_EMULATE_SINGLE_PRECISION", "cuda"),
        ("CUBLAS_EMULATION_STRATEGY", "cuda"),
        ("TORCH_CUDNN_V8_API_DISABLED", "cuda"),
        ("TORCH_CUDNN_USE_HEURISTIC_MODE_B", "cuda"),
    ],
)
def test_a_variable_that_chooses_kernels_is_in_the_key(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: Mock(major=9))
    monkeypatch.delenv(name, raising=False)
    assert name not in identity.machine.__wrapped__(device)
    monkeypatch.setenv(name, "1")
    assert identity.machine.__wrapped__(device)[name] == "1"


def test_a_population_holds_no_more_members_than_params_say() -> None:
    """A further seed leaves those that are full as they are; a key that came later is in none without it."""
    assert at_most(range(5), None) == [[0, 1, 2, 3, 4]]
    assert at_most(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert at_most(range(6), 2)[:2] == at_most(range(5), 2)[:2]
    assert at_most([], None) == at_most([], 3) == []
    assert "members" not in Compute(engine="population").model_dump()
    assert Compute(engine="population", members=2).model_dump()["members"] == 2
    with pytest.raises(UserError, match=r"'compute.members' is 2, but 'compute.engine' is 'loop'.*: null"):
        check_compute(Compute(members=2))


def test_a_model_without_dropout_asks_for_no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossbench.training.dropout.generator_of", None)
    assert draw_masks([], 3, "cpu") == []
