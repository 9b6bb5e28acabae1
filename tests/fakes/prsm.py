"""A fake of PRSM in each of its contracts. Runs alone as `python -m tests.fakes.prsm`."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeTextVendor, Reported, Trouble

SSE = "text/event-stream"
_TIERS = ("none", "standard", "high", "maximum")
_ROUTES = {
    "/compute/inference/stream": "node",
    "/compute/inference": "node",
    "/query": "platform",
    "/api/v1/nwtn/query": "hosted-js",
    "/nwtn/query": "hosted-go",
}


def event(name: str, data: object) -> bytes:
    """One server-sent event as a node frames it."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def token(text: object, index: int = 0, finish: str | None = None) -> bytes:
    """An event with a piece of an answer."""
    return event("token", {"sequence_index": index, "text_delta": text, "token_id": None, "finish_reason": finish})


def result(output: str, **more: object) -> dict[str, Any]:
    """What a node answers, whole or as the last event of a stream."""
    receipt = {
        "job_id": "infer-fake",
        "request_id": "req-fake",
        "model_id": "nwtn",
        "content_tier": "A",
        "privacy_tier": "standard",
        "epsilon_spent": 8.0,
        "duration_seconds": 1.25,
        "cost_ftns": "0.0425",
        "settler_signature": "ab" * 32,
    }
    told = {"success": True, "job_id": "infer-fake", "request_id": "req-fake", "output": output, "receipt": receipt}
    return told | more


def whole_stream(text: str, finish: str = "stop") -> bytes:
    """The body of a streamed answer that says `text` word by word."""
    words = _pieces(text)
    tokens = [token(word, place, finish if place == len(words) - 1 else None) for place, word in enumerate(words)]
    return b"".join(tokens) + event("result", result(text))


class FakePRSM(FakeTextVendor):
    """Answers in one `dialect`: `node`, `platform`, `hosted-js` or `hosted-go`; the routes of the others are not there.

    `cost` is what it charges for an answer, in FTNS. `streams` off: a node without the stream's route. `lookups` is how
    often a session of `hosted-js` has to be looked up before it has ended. `more` is laid over the last document.
    """

    name = "prsm"
    model = "nwtn"

    def __init__(self, port: int = 0, *, dialect: str = "node", first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.dialect = dialect
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.cost = "0.0425"
        self.balance: object = 1234.5
        self.streams = True
        self.lookups = 2
        self.takes_temperature = True
        self.more: dict[str, Any] = {}
        self.cancelled: list[str] = []
        """The ids of the sessions that were cancelled."""
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every call for an answer that was handled, in order."""
        self._sessions: dict[str, int] = {}

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "PRSM_API_URL": self.url,
            "PRSM_API_KEY": self.key,
            "PRSM_MODEL": self.model,
            "PRSM_DIALECT": self.dialect,
        }

    def trouble(self, kind: Trouble) -> Fault | None:
        wait = {"Retry-After": "7"}
        said: dict[Trouble, tuple[int, object, dict[str, str]]] = {
            Trouble.RATE_LIMITED: (429, "Rate limit exceeded for this requester", wait),
            Trouble.OVERLOADED: (503, "Inference executor not initialized.", {}),
            Trouble.DOWN: (500, "Inference failed", {}),
            Trouble.BAD_KEY: (401, "Invalid or missing API key", {}),
            Trouble.NO_CREDIT: (402, "Insufficient FTNS balance to lock escrow for inference", {}),
            Trouble.NO_MODEL: (400, f"Model '{self.model}' not registered", {}),
            Trouble.TOO_LONG: (413, "prompt size 102401 bytes exceeds PRSM_MAX_INFERENCE_PROMPT_BYTES cap of 102400.", {}),
            Trouble.POLICY: (451, "dispatch refused by operator's content filter: blocked_input_pattern", {}),
            Trouble.BAD_REQUEST: (422, "privacy_tier must be one of ['none', 'standard']; got 'x'.", {}),
        }
        status, detail, headers = said[kind]
        return Fault(status=status, headers=headers, body=json.dumps({"detail": detail}).encode())

    def good_stream(self, text: str) -> bytes:
        return whole_stream(text)

    def good_document(self, text: str) -> bytes | None:
        return json.dumps(result(text)).encode()

    def handle(self, request: FakeRequest) -> FakeReply:
        path = request.path
        if request.method == "GET" and path == "/health":
            return FakeReply.json({"status": "ok", "node_id": "node-fake"})
        if not self._knows(request):
            return _error(401, "Invalid or missing API key")
        if request.method == "GET" and self.dialect == "node" and path == "/balance":
            return FakeReply.json({"wallet_id": "node-fake", "balance": self.balance, "recent_transactions": []})
        if request.method == "GET" and self.dialect == "node" and path == "/compute/models":
            return FakeReply.json({"models": [self.model, "fake-large"], "count": 2})
        if self.dialect == "hosted-js" and path.startswith("/api/v1/nwtn/sessions/"):
            return self._session(request)
        if request.method != "POST" or _ROUTES.get(path) != self.dialect or (path.endswith("/stream") and not self.streams):
            return _error(404, "Not Found")
        try:
            body = request.json()
        except ValueError:
            return _error(422, "the body is not JSON")
        if not isinstance(body, dict):
            return _error(422, [{"loc": ["body"], "msg": "Input should be a valid dictionary", "type": "dict_type"}])
        if complaint := self._complaint(body):
            return _error(*complaint)
        with self.lock:
            self.calls.append(body)
        if path.endswith("/stream"):
            return FakeReply(200, {"Content-Type": SSE}, self._stream())
        self.delay()
        return FakeReply.json(self._document(body))

    def _knows(self, request: FakeRequest) -> bool:
        if not self.key:
            return True
        bearer = request.header("Authorization") == f"Bearer {self.key}"
        if self.dialect in ("platform", "hosted-go"):
            return bearer
        return bearer or request.header("X-API-Key") == self.key

    # -- what each contract wants ----------------------------------------------------------------------------------
    def _complaint(self, body: dict[str, Any]) -> tuple[int, object] | None:
        if "temperature" in body and not self.takes_temperature:
            return 422, [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]
        wanted: dict[str, dict[str, type | tuple[type, ...]]] = {
            "node": {"prompt": str, "model_id": str, "budget_ftns": (int, float), "max_tokens": int},
            "platform": {"prompt": str, "user_id": str, "context_allocation": int, "preferences": dict},
            "hosted-js": {"query": str, "model_id": str, "max_tokens": int, "context": dict, "stream": bool},
            "hosted-go": {"prompt": str, "model_id": str, "max_tokens": int, "context": dict},
        }
        optional: dict[str, dict[str, type | tuple[type, ...]]] = {
            "node": {"temperature": (int, float), "privacy_tier": str, "content_tier": str},
            "platform": {"session_id": str, "metadata": dict},
            "hosted-js": {"temperature": (int, float), "system_prompt": str},
            "hosted-go": {"temperature": (int, float), "system_prompt": str},
        }
        fields = wanted[self.dialect] | optional[self.dialect]
        for name, kind in wanted[self.dialect].items():
            if not isinstance(body.get(name), kind):
                return 422, [{"loc": ["body", name], "msg": "Field required", "type": "missing"}]
        for name, value in body.items():
            if name not in fields or not isinstance(value, fields[name]):
                return 422, [{"loc": ["body", name], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]
        return self._bad_values(body)

    def _bad_values(self, body: dict[str, Any]) -> tuple[int, object] | None:
        text = body.get("prompt", body.get("query"))
        if not text:
            return 400, "Missing 'prompt' field"
        if len(text.encode()) > 100 * 1024:
            return 413, f"prompt size {len(text.encode())} bytes exceeds PRSM_MAX_INFERENCE_PROMPT_BYTES cap of 102400."
        if body.get("budget_ftns", 1) <= 0:
            return 422, "budget_ftns must be > 0"
        if body.get("privacy_tier", "none") not in _TIERS:
            return 422, f"privacy_tier must be one of {list(_TIERS)}"
        if "session_id" in body:
            uuid.UUID(body["session_id"])
        return None

    # -- what each contract answers --------------------------------------------------------------------------------
    def _stream(self) -> Iterator[bytes]:
        self.delay()
        if self.script is not None:
            yield from self.script()
            return
        words = _pieces(self.text)
        for place, word in enumerate(words):
            yield token(word, place, (self.finish or "stop") if place == len(words) - 1 else None)
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        yield event("result", self._node_result())

    def _node_result(self) -> dict[str, Any]:
        told = result(self.text)
        told["receipt"] = told["receipt"] | {"cost_ftns": self.cost, "model_id": self.model}
        return told | self.more

    def _document(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.dialect == "node":
            return self._node_result()
        if self.dialect == "platform":
            return self._platform_response(body)
        if self.dialect == "hosted-js":
            return self._begin(body)
        return self._hosted_answer(body)

    def _platform_response(self, body: dict[str, Any]) -> dict[str, Any]:
        told = {
            "session_id": body.get("session_id") or str(uuid.uuid4()),
            "user_id": body["user_id"],
            "final_answer": self.text,
            "reasoning_trace": [],
            "confidence_score": 0.87,
            "context_used": 3,
            "ftns_charged": self.cost,
            "sources": [],
            "safety_validated": True,
            "metadata": {},
        }
        return told | self.more

    def _hosted_answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = len(str(body.get("prompt")).split()) + len(str(body.get("system_prompt", "")).split())
        answer = len(self.text.split())
        told: dict[str, Any] = {
            "content": self.text,
            "model_id": self.model,
            "provider": "prsm",
            "execution_time": 1.5,
            "ftns_cost": float(self.cost),
            "safety_status": "safe",
            "metadata": {},
            "request_id": "req-fake",
            "timestamp": "2026-11-21T10:00:00Z",
        }
        if self.with_usage:
            told["token_usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "total_tokens": prompt + answer,
            }
            self.report(Reported(self.model, prompt, answer))
        return told | self.more

    def _begin(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            name = f"session-{len(self._sessions)}"
            self._sessions[name] = 0
        estimate = {"ftnsTokens": 9.0, "usdEquivalent": 1.0}
        return {"sessionId": name, "status": "queued", "progress": 0, "query": body["query"], "costEstimate": estimate}

    def _session(self, request: FakeRequest) -> FakeReply:
        name, _, verb = request.path.removeprefix("/api/v1/nwtn/sessions/").partition("/")
        with self.lock:
            if name not in self._sessions:
                return _error(404, "Session not found")
            if request.method == "POST" and verb == "cancel":
                self.cancelled.append(name)
                return FakeReply.json({"sessionId": name, "status": "cancelled"})
            if request.method != "GET" or verb:
                return _error(405, "Method Not Allowed")
            self._sessions[name] += 1
            if self._sessions[name] < self.lookups:
                return FakeReply.json({"sessionId": name, "status": "processing", "progress": 50})
        results = {"summary": self.text, "keyFindings": [], "citations": [], "confidenceScore": 0.6}
        cost = {"ftnsTokens": float(self.cost), "usdEquivalent": 0.01}
        told = {"sessionId": name, "status": "completed", "progress": 100, "results": results, "costActual": cost}
        return FakeReply.json(told | self.more)


def _pieces(text: str) -> list[str]:
    return [f" {word}" if position else word for position, word in enumerate(text.split(" "))]


def _error(status: int, detail: object) -> FakeReply:
    return FakeReply.json({"detail": detail}, status=status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece of an answer")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds between two pieces")
    parser.add_argument("--dialect", default="node", help="node, platform, hosted-js or hosted-go")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: FakePRSM(port, dialect=mine.dialect, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "A fake of PRSM. --delay and --piece-delay: seconds before and between the pieces of an answer. --dialect.",
    )
