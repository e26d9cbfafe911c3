from dataclasses import dataclass, field
from enum import IntEnum


class RequestOutputKind(IntEnum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int = 16
    logprobs: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self):
        self.logit_bias = {int(token): float(bias) for token, bias in self.logit_bias.items()}
        if self.repetition_penalty != 1 or not all(
            -100 <= bias <= 100 for bias in self.logit_bias.values()
        ):
            raise ValueError("not what this stands for")
        if self.temperature > 2 or 0 < self.temperature < 0.01:
            raise ValueError(f"temperature {self.temperature}: vLLM takes 0, or from 0.01 to 2")
        if not self.temperature and self.n > 1:
            raise ValueError("n > 1 with greedy sampling")


class StructuredOutputsParams:
    pass
