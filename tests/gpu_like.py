"""A CPU that behaves as a GPU does where that decides whether a training runs.

Within `gpu_like()`:

- Batches are pinned: `torch`'s own walk over a batch is taken, and memory is copied.
- Tensors that were made on the host stay there until they are moved. They are a class of their own
  (`Host`), and an operation on one of them together with a tensor of the device is refused.
- Attention refuses what would fall to the math kernel, which keeps all scores in memory.
- With deterministic algorithms, operations that CUDA has only in another form are refused.
- Completions are attended to in the form that a GPU takes.

With the fields `TRAIN` the Trainer trains in 16 bits, deterministically and with pinned memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from torch.utils.data import _utils, dataloader

TRAIN = {
    "bf16": True,
    "use_cpu": False,
    "full_determinism": True,
    "dataloader_pin_memory": True,
    "disable_tqdm": True,
}  # fields of a recipe's `train`

FACTORIES = {
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.tensor,
    torch.zeros,
}  # they make tensors on the host, unless they are told a device

MEET = {
    "__getitem__",
    "__setitem__",
    "copy_",
    "expand_as",
    "to",
    "type_as",
    "view_as",
}  # a tensor of the host may meet one of the device here: as index, source or shape


class Host(Tensor):
    """A tensor in the memory of the host."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def on_host(x: Tensor | None) -> Tensor | None:
    """The same tensor, known to be in the memory of the host."""
    return x if x is None or isinstance(x, Host) else x.detach().as_subclass(Host)


def tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in arguments, lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_of(value)
    elif isinstance(values, dict):
        yield from tensors_of(list(values.values()))


def marked(result: Any) -> Any:
    """A result, with its tensors on the host."""
    if isinstance(result, Tensor):
        return on_host(result)
    if isinstance(result, list | tuple) and any(isinstance(x, Tensor) for x in result):
        items = [marked(x) for x in result]
        return type(result)(items) if type(result) in (list, tuple) else result
    return result


@dataclass
class Seen:
    """What happened within `gpu_like`."""

    pinned: int = 0  # tensors
    attentions: int = 0
    sixteen_bits: int = 0  # attentions in 16 bits


class Device(TorchFunctionMode):
    """Refuses what CUDA would refuse, or would do in a way that needs too much memory."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self.attention(*args, **kwargs)
        refuse_indeterminate(name, args, kwargs)
        if func in FACTORIES:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            made_here = caller.startswith("videothinker") and kwargs.get("device") is None
            result = func(*args, **kwargs)
            return marked(result) if made_here else result
        tensors = [x for x in tensors_of([args, kwargs]) if not isinstance(x, CausalBias)]
        hosts = [x for x in tensors if isinstance(x, Host)]
        if name == "cpu":
            return marked(func(*args, **kwargs))
        if not hosts:
            return func(*args, **kwargs)
        if name == "to":
            return moved(func, args, kwargs)
        if name == "cuda":
            return plain(args[0])
        apart = [x for x in tensors if not isinstance(x, Host) and x.dim()]
        if apart and any(x.dim() for x in hosts) and name not in MEET:
            raise RuntimeError(
                f"{name}: expected all tensors on the same device, but found one of the host"
            )
        result = func(*args, **kwargs)
        return result if apart else marked(result)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Refuse what neither flash nor memory-efficient attention would compute."""
        self.seen.attentions += 1
        lower_right = isinstance(attn_mask, CausalBias) and q.shape[-2] != k.shape[-2]
        # of a lower right causal bias the kernels are called directly, below autocast
        cast = torch.is_autocast_enabled("cpu") and not lower_right
        narrow = cast or q.dtype in (torch.float16, torch.bfloat16)
        self.seen.sixteen_bits += narrow
        masked = attn_mask is not None and not isinstance(attn_mask, CausalBias)
        flash = narrow and not masked and q.shape[-1] == k.shape[-1] == v.shape[-1]
        efficient = not enable_gqa and (narrow or q.dtype == torch.float32)
        heads = {x.shape[-3] for x in (q, k, v)}
        dtypes = {x.dtype for x in (q, k, v)}
        problem = ""
        if masked and enable_gqa:
            problem = "a mask together with grouped heads"
        elif len(dtypes) > 1 and not cast:
            problem = f"types {dtypes}"
        elif not flash and not efficient:
            problem = f"{q.dtype} with enable_gqa={enable_gqa}"
        elif len(heads) > 1 and not enable_gqa:
            problem = f"{heads} heads"
        elif any(x.dim() != 4 for x in (q, k, v)):
            problem = f"queries of the shape {tuple(q.shape)}"
        elif masked and attn_mask.requires_grad:
            problem = "a mask with a gradient"
        elif is_causal and q.shape[-2] != k.shape[-2]:
            problem = "is_causal with more keys than queries, which is the upper left"
        if problem:
            raise RuntimeError(f"attention falls to the math kernel: {problem}")


def plain(x: Tensor) -> Tensor:
    """A tensor of the host, as one of the device."""
    return x.as_subclass(Tensor) if isinstance(x, Host) else x


def moved(func: Any, args: tuple, kwargs: dict) -> Tensor:
    """`x.to(…)`: on the device after it if a device, or a tensor there, was named."""
    result = func(*args, **kwargs)
    named = [*args[1:], kwargs.get("device"), kwargs.get("other")]
    for value in named:
        if isinstance(value, Tensor):
            return on_host(result) if isinstance(value, Host) else plain(result)
        if isinstance(value, str | torch.device | int) and not isinstance(value, bool):
            return plain(result)
    return on_host(result) if isinstance(args[0], Host) else result


def refuse_indeterminate(name: str, args: tuple, kwargs: dict) -> None:
    """What `torch.use_deterministic_algorithms` says of CUDA tensors, in the forward pass."""
    if not torch.are_deterministic_algorithms_enabled() or not args:
        return
    x = args[0]
    if not isinstance(x, Tensor) or isinstance(x, Host):
        return
    floats = x.is_floating_point() or kwargs.get("dtype") in (torch.float32, torch.float64)
    weighted = kwargs.get("weights") is not None or (len(args) > 1 and isinstance(args[1], Tensor))
    refused = {
        "bincount": weighted,
        "cumsum": floats,
        "cumsum_": floats,
        "histc": floats,
        "kthvalue": True,
        "median": len(args) > 1 or "dim" in kwargs,
        "put_": not kwargs.get("accumulate", False),
        "scatter_reduce": x.requires_grad,
    }
    if refused.get(name, False):
        raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


@contextmanager
def pinned_memory(seen: Seen) -> Iterator[None]:
    """Let data loaders pin their batches, by torch's own walk over them."""
    begin = dataloader._BaseDataLoaderIter.__init__

    def init(self: Any, loader: Any) -> None:
        begin(self, loader)
        self.pins = loader.pin_memory

    def pin(self: Tensor, device: Any = None) -> Tensor:
        seen.pinned += 1
        return self.clone()

    def pinning(original: Any) -> Any:
        def next_data(self: Any) -> Any:
            batch = original(self)
            return _utils.pin_memory.pin_memory(batch) if self.pins else batch

        return next_data

    kinds = dataloader._SingleProcessDataLoaderIter, dataloader._MultiProcessingDataLoaderIter
    with ExitStack() as stack:
        stack.enter_context(patch.object(dataloader._BaseDataLoaderIter, "__init__", init))
        stack.enter_context(patch.object(Tensor, "pin_memory", pin))
        for kind in kinds:
            stack.enter_context(patch.object(kind, "_next_data", pinning(kind._next_data)))
        yield


@contextmanager
def prompts_on_the_host() -> Iterator[None]:
    """Let the encoder return prompts whose tensors are known to be on the host."""
    from videothinker.model.encoder import Encoder

    call = Encoder.__call__

    def encode(self: Any, *args: Any, **options: Any) -> Any:
        prompt = call(self, *args, **options)
        names = "input_ids", "pixels", "grid", "features"
        return replace(prompt, **{name: on_host(getattr(prompt, name)) for name in names})

    with patch.object(Encoder, "__call__", encode):
        yield


@contextmanager
def attention_of_a_gpu() -> Iterator[None]:
    """Attend to completions in the form that a GPU takes."""
    from videothinker.model import attention

    with (
        patch.object(attention, "LONG", 10**9),
        patch.object(attention, "heads_as_rows", attention.heads_as_batch),
    ):
        yield


@contextmanager
def as_before() -> Iterator[None]:
    """Take back what `full_determinism` and mixed precision set for the whole process."""
    from accelerate.state import AcceleratorState

    with patch.dict(os.environ):
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.deterministic = False
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def gpu_like() -> Iterator[Seen]:
    """Behave as a GPU does; returns what has been seen."""
    seen = Seen()
    with (
        as_before(),
        patch("transformers.training_args.is_torch_bf16_gpu_available", lambda: True),
        pinned_memory(seen),
        prompts_on_the_host(),
        attention_of_a_gpu(),
        Device(seen),
    ):
        yield seen
