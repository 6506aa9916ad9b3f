"""The tuning methods, one file each. Importing a file enters its method into the register."""

from adapters.methods import (
    adaptformer,
    bitfit,
    conv_adapter,
    fact,
    full,
    houlsby,
    linear,
    lora,
    norm,
    pfeiffer,
    pixel_prompt,
    repadapter,
    residual_parallel,
    residual_serial,
    ssf,
    vpt_deep,
    vpt_shallow,
)
from adapters.methods.registry import METHODS, Method, register_method
from adapters.methods.site_adapter import SiteAdapter

__all__ = [
    "METHODS",
    "Method",
    "SiteAdapter",
    "adaptformer",
    "bitfit",
    "conv_adapter",
    "fact",
    "full",
    "houlsby",
    "linear",
    "lora",
    "norm",
    "pfeiffer",
    "pixel_prompt",
    "register_method",
    "repadapter",
    "residual_parallel",
    "residual_serial",
    "ssf",
    "vpt_deep",
    "vpt_shallow",
]
