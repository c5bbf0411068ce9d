"""Where to compute: device, precision and processes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from SIFASegmentationLib.errors import InputError

from .machine_memory import free_bytes_of_machine

DEVICES = ("auto", "cpu", "cuda", "mps")

_FULL = 0.1  # A GPU counts as full when less than this share of its memory is free.

T = TypeVar("T")


def choose_device(device: str) -> str:
    """Resolve `auto` to the best usable device (CUDA, then MPS, then CPU); check and return any other.

    Raises:
        InputError: The device is unknown, not on this machine, full or in use, or can't be used for another reason,
            which the message gives.
    """
    if device not in DEVICES:
        raise InputError(f"The device '{device}' is unknown", f"choose {', '.join(DEVICES)}")
    if device == "cpu":
        return device
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        usable = {**available, "cuda": available["cuda"] and not unusable_gpu(), "cpu": True}
        return next(name for name in ("cuda", "mps", "cpu") if usable[name])
    if not available[device]:
        raise InputError(f"The device '{device}' is not on this machine", "choose auto or cpu")
    if device == "cuda" and (fault := unusable_gpu()):
        raise InputError(fault, "update its driver, install another build of PyTorch, or choose the device cpu")
    return device


def unusable_gpu() -> str:
    """Return why this machine's GPU can't be used; an empty string if it can be, or if there is none.

    `torch.cuda.is_available` may only check that there is a GPU (lightning_fabric makes it ask just the driver's
    management library). It then misses a driver that is too old for torch's build of CUDA, and a GPU that is too old or
    too new for the kernels of that build.

    Raises:
        InputError: The GPU is full, or reserved by another process. This is an error so that no training falls back to
            the CPU, where it may take days.
    """
    if not torch.cuda.is_available():
        return ""
    try:
        torch.cuda.init()
        capability, kernels = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error) or "busy" in str(error):
            raise InputError("The GPU is full or in use", "close other programs that use it, then try again") from error
        return f"The GPU can't be used: {str(error).strip().splitlines()[0].rstrip('.')}"
    if has_kernels(capability, kernels):
        return ""
    name, version = torch.cuda.get_device_name(), ".".join(map(str, capability))
    return f"The GPU {name} (compute capability {version}) can't be used: this build of PyTorch has no kernels for it"


def has_kernels(capability: tuple[int, int], kernels: Iterable[str]) -> bool:
    """Whether a build of torch runs on a GPU of a given compute capability.

    Binary code (`sm`) runs on the same major version from its minor version on, code for a virtual architecture
    (`compute`) on all later versions (NVIDIA, CUDA C++ Programming Guide, "Application Compatibility").

    Args:
        capability: Major and minor version of the GPU's compute capability.
        kernels: What the build has kernels for, such as `sm_90` and `compute_90`. If no name has this form, as in
            builds for ROCm, the answer is yes.
    """
    known = [match for kernel in kernels if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", kernel))]
    major, minor = capability
    for kind, own_major, own_minor in (match.groups() for match in known):
        own = int(own_major), int(own_minor)
        if own <= (major, minor) and (kind == "compute" or own[0] == major):
            return True
    return not known


def make_fabric(device: str, precision: str) -> Fabric:
    """Set up device, autocast and process group of this process, which was started alone or by `torchrun`.

    Other launchers, such as Slurm, are ignored: they may have started a script that trains alone.

    Args:
        device: One of `DEVICES`.
        precision: auto, float32 or bfloat16; auto is bfloat16 on GPUs and CPUs that compute in it natively.

    Raises:
        InputError: The device can't be used, or not by this many processes.
    """
    accelerator = choose_device(device)
    if precision == "auto":
        precision = "bfloat16" if computes_in_bfloat16(accelerator) else "float32"
    if accelerator == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    processes, here = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if accelerator == "cuda" and here > torch.cuda.device_count():
        raise InputError(
            f"There are {here} processes for {torch.cuda.device_count()} GPUs", "start as many as there are GPUs"
        )
    if accelerator == "cuda" and processes > 1 and not torch.distributed.is_nccl_available():
        raise InputError(
            "This build of PyTorch can't train on several GPUs: it has no NCCL, as on Windows",
            "train on one, or on Linux",
        )
    if accelerator == "mps" and processes > 1:
        raise InputError("Several processes can't share the device mps", "start one, or choose the device cpu")
    # Otherwise Lightning announces the precision at every start.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        plugins=[TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def computes_in_bfloat16(accelerator: str) -> bool:
    """Whether a device multiplies natively in bfloat16, and so faster than in float32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The function is private in torch, so it may be missing in some version.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return accelerator == "cpu" and supported is not None and bool(supported())


def describe_device(device: str) -> str:
    """Describe in words a device that `choose_device` returned."""
    if device == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"cpu: {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device


def processes_sharing(device: torch.device) -> int:
    """Number of this training's processes that share the device's memory: 1 for a GPU, which each process has to
    itself, else all processes on this machine."""
    return 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def give_back_memory() -> None:
    """Release the GPU memory that torch caches, for ONNX Runtime, which has its own allocator."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a device in bytes; for a CPU and MPS, that of the machine."""
    if device.type == "cuda":
        # Memory that torch still caches from an earlier training is free as well.
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    return free_bytes_of_machine()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that some device, or the machine, ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator, MPS, and CUDA outside torch's allocator raise no type of their own. "alloc_failed" is cuBLAS
    # without room for its workspace.
    message = str(error).lower()
    if any(
        words in message for words in ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
    ):
        return True
    # cuDNN says this if no algorithm fits into memory, but also if its libraries don't match.
    return "unable to find an engine" in message and _gpu_is_full()


def _gpu_is_full() -> bool:
    free, total = torch.cuda.mem_get_info()
    return free < _FULL * total


def within_memory(act: Callable[[], T], otherwise: Callable[[], InputError]) -> T:
    """Return the result of `act()`, and raise the error made by `otherwise()` if memory runs out.

    Raises:
        InputError: The memory is too small.
    """
    try:
        return act()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        # The traceback keeps the tensors of the failed call alive, and `otherwise` may try something smaller.
        error.__traceback__ = None
        raise otherwise() from error


def inference_device(device: str) -> str:
    """Device for segmenting after a training on `device` of torch; ONNX Runtime lacks MPS, and often CUDA."""
    return "cpu" if device == "cpu" else "auto"
