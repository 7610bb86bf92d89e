"""The GPU, as its driver describes it, and whether ONNX Runtime can run the model on it.

The driver is asked through its own library (libcuda, the CUDA driver API); nothing here needs onnxruntime.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from appliance.engine.model import ModelError

_DRIVER = "libcuda.so.1"
_PROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, _COMPUTE_CAPABILITY_*
# The machine code in the official builds of ONNX Runtime 1.31; its MXFP4 kernels begin with 8.0. Code for x.y runs on
# x.z with z >= y. The builds have no PTX for other GPUs.
_COMPILED_FOR = ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
_MXFP4_BUILD = "fp4-qmoe=1"


class CudaError(ModelError):
    """This machine or this installation cannot run the model on CUDA; the text says why and what to do."""


@dataclass(frozen=True)
class Device:
    """The first GPU: compute capability, streaming multiprocessors and free memory."""

    capability: tuple[int, int]
    processors: int
    free_bytes: int


def query_device() -> Device:
    """Ask the driver for its first device.

    Raises:
        CudaError: there is no driver or no device, or the driver does not answer.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as exc:
        raise CudaError(
            "no NVIDIA driver is installed (libcuda.so.1 is missing): install it, or set engine.accelerator to cpu"
        ) from exc
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    attributes = {attribute: ctypes.c_int() for attribute in (_PROCESSORS, _MAJOR, _MINOR)}
    for attribute, value in attributes.items():
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    # ONNX Runtime uses the primary context, and the driver reports memory within a context.
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    _call(driver, "cuCtxSetCurrent", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return Device((attributes[_MAJOR].value, attributes[_MINOR].value), attributes[_PROCESSORS].value, free.value)


def _call(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    status = getattr(driver, name)(*arguments)
    if status != 0:
        raise CudaError(
            f"the NVIDIA driver refuses {name} (error {status}): is a GPU there, and may this user open /dev/nvidia*?"
        )


def require_capable(build_info: str, capability: tuple[int, int]) -> None:
    """Refuse a build of ONNX Runtime without MXFP4 kernels, and a GPU for which it has no machine code.

    Args:
        build_info: what onnxruntime.get_build_info() says.
    Raises:
        CudaError: it names what is missing and what to do.
    """
    if _MXFP4_BUILD not in build_info:
        raise CudaError(
            f"this build of ONNX Runtime has no MXFP4 kernels for CUDA ({_MXFP4_BUILD} is not in its build info): "
            "install the official onnxruntime-gpu of this release, or set engine.accelerator to cpu"
        )
    if not any(capability[0] == major and capability[1] >= minor for major, minor in _COMPILED_FOR):
        names = ", ".join(f"{major}.{minor}" for major, minor in _COMPILED_FOR)
        raise CudaError(
            f"this GPU has compute capability {capability[0]}.{capability[1]}; ONNX Runtime is compiled for {names} "
            "and their minor successors: use such a GPU, or set engine.accelerator to cpu"
        )
