"""The tuning methods, one file each."""

from adapters.methods import adaptformer, linear, lora, ssf
from adapters.methods.registry import METHODS, Method, SiteAdapter

__all__ = ["METHODS", "Method", "SiteAdapter", "adaptformer", "linear", "lora", "ssf"]
