"""Stands where vLLM 0.30 would, on machines that cannot run it.

It has the calls that `videothinker.model.vllm_input`, `training.vllm_rollout`,
`evaluation.vllm_engine` and TRL 1.16 make, refuses some of what vLLM refuses, and answers with the
model itself: a plain forward pass over everything for each token, at positions that it works out
by the published rule from what it was sent.
"""

from .engine import LLM, RequestOutput
from .sampling_params import SamplingParams

__version__ = "0.30.0"
__all__ = ["LLM", "RequestOutput", "SamplingParams"]
