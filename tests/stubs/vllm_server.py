"""The endpoints of `vllm serve` that TRL 1.16 talks to; stands before the stand-in engine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vllm import LLM, SamplingParams
from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import decode_mm_kwargs_item
from vllm.inputs import mm_input, tokens_input
from vllm.multimodal.inputs import PlaceholderRange


class Server(ThreadingHTTPServer):
    """A server of a model on a free port of this machine."""

    def __init__(self, model, logprobs_mode="processed_logprobs"):
        self.logprobs_mode = logprobs_mode
        super().__init__(("127.0.0.1", 0), Handler)
        self.llm, self.requests, self.lock = LLM(model), [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, pairs):
        """Weights, as the engine's workers receive them."""
        self.requests.append(("weights", [name for name, _ in pairs]))
        self.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(pairs)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/server_info"):
            self.reply(
                {"vllm_config": {"model_config": {"logprobs_mode": self.server.logprobs_mode}}}
            )
        else:
            assert self.path in ("/health", "/v1/models"), self.path
            self.reply({"data": [{"id": "served"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        with self.server.lock:
            self.server.requests.append((self.path, body))
            if self.path == "/inference/v1/generate":
                self.reply({"choices": self.drawn(body)})
            else:
                known = (
                    "/start_weight_update",
                    "/update_weights",
                    "/finish_weight_update",
                    "/reset_prefix_cache",
                )
                assert self.path in known, self.path
                self.reply({"success": True})

    def drawn(self, body):
        features, engine = body["features"], self.server.llm.llm_engine
        request = tokens_input(body["token_ids"])
        if features is not None:
            assert set(features) == {"mm_hashes", "mm_placeholders", "kwargs_data"}
            items = [decode_mm_kwargs_item(text) for text in features["kwargs_data"]["video"]]
            places = [PlaceholderRange(**place) for place in features["mm_placeholders"]["video"]]
            request = mm_input(
                body["token_ids"], {"video": items}, features["mm_hashes"], {"video": places}
            )
        engine.add_request(body["request_id"], request, SamplingParams(**body["sampling_params"]))
        [output] = engine.step()
        return [
            {
                "index": o.index,
                "token_ids": o.token_ids,
                "logprobs": {
                    "content": [
                        {"token": f"token_id:{token}", "logprob": entry.logprob, "top_logprobs": []}
                        for position in o.logprobs
                        for token, entry in position.items()
                    ]
                },
            }
            for o in output.outputs
        ]
