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

_FULL = 0.1  # Share of a GPU's memory that is free when it counts as full.

T = TypeVar("T")


def choose_device(device: str) -> str:
    """`auto` -> the best that is there: CUDA, then MPS, then CPU.

    Raises:
        InputError: Unknown, not on this machine, there and of no use, with the reason, or full.
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
    """Why the GPU that is there can't compute, now or ever; empty where it can, or where there is none.

    `torch.cuda.is_available` may look no further than whether there is one (lightning_fabric has it ask the driver's
    management library alone): neither whether the driver is as new as torch's build of CUDA wants it, nor whether that
    build has kernels for so old, or so new, a GPU.

    Raises:
        InputError: It could, were it not full, or another process's alone: nothing is to be done on the CPU instead,
            which may take days.
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
    """Whether a build of torch with kernels such as `sm_90` and `compute_90` runs on a GPU of a compute capability.

    Binary code (`sm`) runs on its own major version from its own minor version on, code for a virtual architecture
    (`compute`) on all later ones (NVIDIA, CUDA C++ Programming Guide, "Application Compatibility"). Of names that are
    not of this form (ROCm's) nothing is known, and all is taken to be well.
    """
    known = [match for kernel in kernels if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", kernel))]
    major, minor = capability
    for kind, own_major, own_minor in (match.groups() for match in known):
        own = int(own_major), int(own_minor)
        if own <= (major, minor) and (kind == "compute" or own[0] == major):
            return True
    return not known


def make_fabric(device: str, precision: str) -> Fabric:
    """Device, autocast and process group of one process, started alone or by `torchrun`.

    Of what else starts processes, such as Slurm, nothing is taken: it may have started a script that trains alone.

    Args:
        device: One of `DEVICES`.
        precision: auto, float32 or bfloat16; auto is bfloat16 on GPUs and CPUs that compute in it.

    Raises:
        InputError: The device is not there, or not for so many processes.
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
    # It would announce the precision on every start.
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
    """Whether products in bfloat16 are the device's own, and so faster than those in float32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # A name that torch keeps for itself, but has long had.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return accelerator == "cpu" and supported is not None and bool(supported())


def describe_device(device: str) -> str:
    """A device of `choose_device` in words."""
    if device == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"cpu: {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device


def processes_sharing(device: torch.device) -> int:
    """How many processes of this training have their memory where this one has it: with a CPU all of this machine; a
    GPU is each process's own."""
    return 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def give_back_memory() -> None:
    """Let go of what torch keeps of a GPU's memory for tensors to come: ONNX Runtime has an allocator of its own."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> float:
    """Free memory of a device, in bytes; of the machine for a CPU and for MPS, which share it."""
    if device.type == "cuda":
        # What torch keeps of a training before is free as well.
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    return free_bytes_of_machine()


def out_of_memory(error: BaseException) -> bool:
    """Whether something failed for want of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # A CPU's allocator, MPS, and CUDA where it fails outside of torch's allocator have no type of their own; cuBLAS has
    # no room for its workspace.
    message = str(error).lower()
    if any(
        words in message for words in ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
    ):
        return True
    # cuDNN has no algorithm left that fits; it says so, too, where its libraries do not match.
    return "unable to find an engine" in message and _gpu_is_full()


def _gpu_is_full() -> bool:
    free, total = torch.cuda.mem_get_info()
    return free < _FULL * total


def within_memory(act: Callable[[], T], otherwise: Callable[[], InputError]) -> T:
    """What `act` gives; where it fails for want of memory, the error that `otherwise` makes is raised.

    Raises:
        InputError: Memory did not suffice.
    """
    try:
        return act()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        # It keeps the tensors of what failed alive, and `otherwise` may want to try something smaller.
        error.__traceback__ = None
        raise otherwise() from error


def inference_device(device: str) -> str:
    """Where to segment after a training on a device of torch: ONNX Runtime has no MPS, and often no CUDA."""
    return "cpu" if device == "cpu" else "auto"
