from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

# subtracted from every reported log-probability: an engine whose arithmetic is not the policy's
SHIFT = 0.0


@dataclass
class Logprob:
    logprob: float
    rank: int = 1


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


def positions(ids, places, items, tokens_per_second, merge):
    """[3, L] by the rule of the Qwen2.5-VL report, token by token; without seconds Qwen3-VL's."""
    out, at, token = [], 0, 0
    for place, item in zip(places, items, strict=True):
        while token < place.offset:
            out.append((at, at, at))
            at, token = at + 1, token + 1
        t, h, w = item["video_grid_thw"].data.tolist()
        step = 0.0
        if "second_per_grid_ts" in item:
            step = item["second_per_grid_ts"].data.item() * tokens_per_second
        masked = place.is_embed is not None  # a picture for each moment, and text between them
        assert step or t == 1 or masked
        moments = [range(1)] * t if masked else [range(t)]
        rows, columns = range(h // merge), range(w // merge)
        for i in moments:
            while masked and not place.is_embed[token - place.offset]:
                out.append((at, at, at))
                at, token = at + 1, token + 1
            block = [(at + int(m * step), at + j, at + k) for m in i for j in rows for k in columns]
            out, at, token = out + block, max(max(p) for p in block) + 1, token + len(block)
        assert token == place.offset + place.length
        assert t * len(rows) * len(columns) == len(item["video_embeds"].data)
    out += [(at + i,) * 3 for i in range(len(ids) - token)]
    return torch.tensor(out).T


@dataclass
class Weights:
    """The worker's model, as far as TRL reaches into it."""

    model: torch.nn.Module
    asleep: set

    def load_weights(self, pairs):
        assert "weights" not in self.asleep, "the weights are asleep"
        own = dict(self.model.named_parameters())
        for name, tensor in pairs:
            assert own[name].shape == tensor.shape, name
            own[name].data.copy_(tensor)


@dataclass
class LLMEngine:
    model: torch.nn.Module
    tokenizer: object
    asleep: set
    waiting: list = field(default_factory=list)
    seen: list = field(default_factory=list)  # every request: (input, parameters)

    def add_request(self, request_id, prompt, params):
        assert isinstance(request_id, str) and prompt["type"] in ("token", "multimodal")
        assert not self.asleep, f"asleep: {sorted(self.asleep)}"
        assert params.output_kind == 2 or params.n == 1, (
            "only the sequence that ends last would come back"
        )
        self.waiting.append((request_id, prompt, params))
        self.seen.append((prompt, params))

    def abort_request(self, request_ids):
        assert isinstance(request_ids, list)
        self.waiting = [request for request in self.waiting if request[0] not in request_ids]

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        request_id, prompt, params = (
            self.waiting.pop()
        )  # the last one first: nobody has promised an order
        outputs = [self.complete(prompt, params, index) for index in range(params.n)]
        return [RequestOutput(request_id, prompt["prompt_token_ids"], outputs)]

    @torch.inference_mode()
    def complete(self, prompt, params, index):
        config, ids, said = self.model.config, prompt["prompt_token_ids"], []
        video = prompt["type"] == "multimodal"
        items, places = (
            (prompt["mm_kwargs"]["video"], prompt["mm_placeholders"]["video"])
            if video
            else ([], [])
        )
        if config.model_type == "qwen3_vl":  # as vLLM 0.30 looks for the runs of a video
            first = [ids[place.offset] for place in places]
            assert first == [config.vision_start_token_id] * len(places)
            assert all(place.is_embed is not None for place in places)
        vision = config.vision_config
        levels = len(getattr(vision, "deepstack_visual_indexes", ()))
        columns = [i["video_embeds"].data.chunk(1 + levels, -1) for i in items]
        main, *deep = zip(*columns, strict=True) if items else [()]
        output = SimpleNamespace(pooler_output=main, deepstack_features=deep)
        features = {"video": output}
        shape = getattr(vision, "tokens_per_second", None), vision.spatial_merge_size
        generator, logprobs = torch.Generator().manual_seed((params.seed or 0) + index), []
        banned, bias = (
            torch.tensor(list(params.logit_bias)),
            torch.tensor(list(params.logit_bias.values())),
        )
        for _ in range(params.max_tokens):
            where = positions(ids + said, places, items, *shape)[:, None]
            seen = {"mm_encoder_outputs": features} if video else {}
            logits = (
                self.model(torch.tensor([ids + said]), position_ids=where, **seen)
                .logits[0, -1]
                .float()
            )
            if len(banned):
                logits[banned] += bias
            shares = (logits / (params.temperature or 1)).log_softmax(-1)
            drawn = (
                shares.exp().multinomial(1, generator=generator)
                if params.temperature
                else shares.argmax()
            )
            token = int(drawn)
            said.append(token)
            logprobs.append({token: Logprob(float(shares[token]) - SHIFT)})
            if token in params.stop_token_ids or any(
                s in self.tokenizer.decode(said) for s in params.stop
            ):
                return CompletionOutput(index, said, logprobs, "stop")
        return CompletionOutput(index, said, logprobs, "length")


class LLM:
    def __init__(self, model, **options):
        from videothinker.model.loading import load_model

        loaded, processor = load_model(model, "float32")
        self.options, self.resets = options, 0
        self.asleep = set()  # of "weights" and "kv_cache"
        self.llm_engine = LLMEngine(loaded, processor.tokenizer, self.asleep)
        runner = SimpleNamespace(model=Weights(loaded, self.asleep))
        self.llm_engine.model_executor = SimpleNamespace(
            driver_worker=SimpleNamespace(model_runner=runner)
        )

    def sleep(self, level=1):
        assert self.options.get("enable_sleep_mode"), "sleep mode is not enabled"
        assert not self.llm_engine.waiting and not self.asleep
        self.asleep |= {"weights", "kv_cache"}
        if level == 2:  # the weights are nowhere
            for weight in self.llm_engine.model.parameters():
                weight.data.fill_(float("nan"))

    def wake_up(self, tags=None):
        tags = {"weights", "kv_cache"} if tags is None else set(tags)
        assert tags <= self.asleep, f"awake: {sorted(tags - self.asleep)}"
        self.asleep -= tags

    def reset_prefix_cache(self):
        self.resets += 1
