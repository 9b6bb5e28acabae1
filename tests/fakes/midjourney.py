"""A fake of the two customary Midjourney proxies. Runs alone as `python -m tests.fakes.midjourney`."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeImageVendor, Reported, Trouble, tiny_png

NOVICEZK = "novicezk"
TRUEAI = "trueai"
_STARTED_MS = 1_790_000_000_000
_UUID = "3dbbd469-36af-4a0f-8f02-df6c579e7011"


@dataclass(slots=True)
class FakeTask:
    """A task at the proxy; each look takes it a step further."""

    id: str
    action: str
    prompt: str
    state: str
    step: int = 0
    cancelled: bool = False


class FakeMidjourney(FakeImageVendor):
    """A proxy of either `flavour`; it serves the finished pictures itself, under `/attachments/`.

    `steps` are the (status, progress) pairs that a task shows, one for each look; the last one stays. `code` is what a
    submission is answered with. `fail_reason` goes with a FAILURE. `picture` is what it serves, `picture_url` where it
    says that the picture is.
    """

    name = "midjourney"
    model = "midjourney"

    def __init__(self, port: int = 0, *, flavour: str = NOVICEZK) -> None:
        super().__init__(port)
        self.flavour = flavour
        self.header = "mj-api-secret"
        self.steps = [("NOT_START", "0%"), ("SUBMITTED", "0%"), ("IN_PROGRESS", "37%"), ("IN_PROGRESS", "81%")]
        self.steps.append(("SUCCESS", "100%"))
        self.code = 1
        self.fail_reason = ""
        self.picture = tiny_png(32, 32)
        self.picture_url: str | None = None
        self.poll_s = 0.01
        self.tasks: dict[str, FakeTask] = {}
        self.calls: list[dict[str, Any]] = []
        """The body of every submission that was taken, with its `path`."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "MIDJOURNEY_PROXY_URL": self.url,
            "MIDJOURNEY_PROXY_SECRET": self.key,
            "MIDJOURNEY_POLL_S": str(self.poll_s),
        }

    @property
    def filtered(self) -> bool:
        """Whether tasks end because Midjourney found the content unfit."""
        return "Banned" in self.fail_reason

    @filtered.setter
    def filtered(self, value: bool) -> None:
        self.fail_reason = "Banned prompt detected" if value else ""
        self.steps[-1] = ("FAILURE", "") if value else ("SUCCESS", "100%")

    def trouble(self, kind: Trouble) -> Fault | None:
        if kind is Trouble.BAD_KEY:
            reply = self._unauthorized()
        elif kind is Trouble.DOWN:
            reply = FakeReply.json({"timestamp": "2026-11-21T14:00:00", "status": 500, "error": "Internal Server Error"}, 500)
        else:
            codes = {
                Trouble.RATE_LIMITED: (23, "queue is full, please try again later"),
                Trouble.OVERLOADED: (3, "no available account instance"),
                Trouble.POLICY: (24, "may contain banned words"),
                Trouble.BAD_REQUEST: (4, "prompt must not be empty"),
            }
            if kind not in codes:
                return None
            reply = _submit(*codes[kind], properties={"bannedWord": "gore"} if kind is Trouble.POLICY else {})
        assert isinstance(reply.body, bytes)
        return Fault(status=reply.status, headers=reply.headers, body=reply.body)

    # -- what it answers -------------------------------------------------------------------------------------------
    def handle(self, request: FakeRequest) -> FakeReply:
        if request.path.startswith("/attachments/"):
            if self.key in str(request.headers):
                raise AssertionError("the secret was sent along to the picture's address")
            return FakeReply(200, {"Content-Type": "image/png"}, self.picture)
        if request.path == "/health" and self.flavour == TRUEAI:
            return FakeReply(200, {"Content-Type": "text/plain"}, b"Healthy")
        path = request.path
        speed = re.match(r"/mj-(fast|turbo|relax)(?=/mj/)", path)
        if speed and self.flavour == TRUEAI:
            path = path.removeprefix(speed[0])
        if not path.startswith("/mj/"):
            return _not_found(request)
        if request.header(self.header) not in (self.key, f"Bearer {self.key}"):
            return self._unauthorized()
        if request.method == "POST" and path.startswith("/mj/submit/"):
            return self._submitted(path.removeprefix("/mj/submit/"), request)
        return self._about_tasks(path.removeprefix("/mj/task/"), request)

    def _unauthorized(self) -> FakeReply:
        return FakeReply.json({"code": 401, "description": "unauthorized"}, 403 if self.flavour == TRUEAI else 401)

    def _submitted(self, what: str, request: FakeRequest) -> FakeReply:
        if request.header("Content-Type") != "application/json":
            return FakeReply.json({"status": 415, "error": "Unsupported Media Type"}, 415)
        body = request.json()
        known = {"imagine", "action"} if self.flavour == TRUEAI else {"imagine", "change"}
        if what not in known:
            return _not_found(request)
        action = getattr(self, f"_{what}")(body)
        if not isinstance(action, str):
            return action  # type: ignore[no-any-return]
        self.delay()
        if self.code not in (1, 21, 22):
            return _submit(self.code, "failure")
        with self.lock:
            number = len(self.calls) + 1
            self.calls.append(body | {"path": request.path})
            task = FakeTask(f"132009817341{number:04d}", action, str(body.get("prompt", "")), str(body.get("state", "")))
            self.tasks[task.id] = task
        return _submit(self.code, "in queue, 2 tasks before it" if self.code == 22 else "success", result=task.id)

    def _imagine(self, body: dict[str, Any]) -> str | FakeReply:
        if not isinstance(body.get("prompt"), str) or not body["prompt"].strip():
            return _submit(4, "prompt must not be empty")
        for picture in body.get("base64Array") or []:
            found = re.fullmatch(r"data:image/(png|jpeg|webp|gif);base64,(.+)", picture)
            if found is None or not base64.b64decode(found[2], validate=True):
                return _submit(4, "base64Array is malformed")
        return "IMAGINE"

    def _change(self, body: dict[str, Any]) -> str | FakeReply:
        if body.get("taskId") not in self.tasks:
            return _submit(3, "the related task does not exist or has expired")
        action = body.get("action")
        if action not in ("UPSCALE", "VARIATION", "REROLL") or (action != "REROLL" and body.get("index") not in (1, 2, 3, 4)):
            return _submit(4, "action is wrong")
        return str(action)

    def _action(self, body: dict[str, Any]) -> str | FakeReply:
        task = self.tasks.get(str(body.get("taskId")))
        if task is None:
            return _submit(3, "the related task does not exist or has expired")
        if body.get("customId") not in [button["customId"] for button in _buttons(task)]:
            return _submit(4, "customId is wrong")
        return "UPSCALE" if "upsample" in body["customId"] else "VARIATION"

    def _about_tasks(self, what: str, request: FakeRequest) -> FakeReply:
        if what == "queue" and self.flavour == NOVICEZK:
            return FakeReply.json([])
        if what == "list-by-condition" and request.method == "POST":
            ids = request.json()["ids"]
            return FakeReply.json([self._shown(self.tasks[one]) for one in ids if one in self.tasks])
        task_id, _, verb = what.partition("/")
        task = self.tasks.get(task_id)
        if verb == "fetch" and request.method == "GET":
            return FakeReply.json(self._look(task)) if task else FakeReply(200, {"Content-Type": "application/json"}, b"")
        if verb == "cancel" and request.method == "POST" and self.flavour == TRUEAI and task:
            task.cancelled = True
            return _submit(1, "success", result=task_id)
        return _not_found(request)

    def _look(self, task: FakeTask) -> dict[str, Any]:
        shown = self._shown(task)
        with self.lock:
            task.step += 1
        if shown["status"] == "SUCCESS":
            self.report(Reported(self.model, 0, 0, pictures=1))
        return shown

    def _shown(self, task: FakeTask) -> dict[str, Any]:
        status, progress = self.steps[min(task.step, len(self.steps) - 1)]
        if task.cancelled:
            status, progress = "CANCEL", ""
        done = status == "SUCCESS"
        url = self.picture_url if self.picture_url is not None else f"{self.url}/attachments/1/{task.id}.png?ex=6720&hm=ab"
        shown: dict[str, Any] = {
            "id": task.id,
            "action": task.action,
            "status": status,
            "prompt": task.prompt,
            "promptEn": task.prompt,
            "description": f"/imagine {task.prompt}",
            "state": task.state,
            "submitTime": _STARTED_MS,
            "startTime": _STARTED_MS + 900,
            "finishTime": _STARTED_MS + 45_000 if done else None,
            "progress": progress,
            "imageUrl": url if done else None,
            "failReason": self.fail_reason if status == "FAILURE" else None,
            "properties": {"finalPrompt": task.prompt},
        }
        return shown | ({"buttons": _buttons(task) if done else []} if self.flavour == TRUEAI else {})


def _buttons(task: FakeTask) -> list[dict[str, Any]]:
    """What Discord shows below a grid, or below one picture."""
    if task.action == "UPSCALE":
        return [
            _button(f"MJ::CustomZoom::{_UUID}", "Custom Zoom"),
            _button(f"MJ::Outpaint::50::1::{_UUID}::SOLO", "Zoom Out 2x"),
        ]
    grid = [_button(f"MJ::JOB::upsample::{number}::{_UUID}", f"U{number}") for number in range(1, 5)]
    grid.append(_button(f"MJ::JOB::reroll::0::{_UUID}::SOLO", "", "🔄"))
    grid += [_button(f"MJ::JOB::variation::{number}::{_UUID}", f"V{number}") for number in range(1, 5)]
    return [*grid, _button(f"MJ::BOOKMARK::{_UUID}", "", "❤️")]


def _button(custom_id: str, label: str, emoji: str = "") -> dict[str, Any]:
    return {"customId": custom_id, "emoji": emoji, "label": label, "type": 2, "style": 2}


def _submit(code: int, description: str, *, result: str | None = None, properties: object = None) -> FakeReply:
    answer = {"code": code, "description": description, "result": result, "properties": properties or {}}
    return FakeReply.json(answer)


def _not_found(request: FakeRequest) -> FakeReply:
    return FakeReply.json({"status": 404, "error": "Not Found", "path": request.path}, 404)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before a submission is answered")
    parser.add_argument("--flavour", choices=[NOVICEZK, TRUEAI], default=NOVICEZK, help="which of the two proxies")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest

    def make(port: int) -> FakeMidjourney:
        fake = FakeMidjourney(port, flavour=mine.flavour)
        fake.first_delay_s = mine.delay
        return fake

    run_as_process(make, "A fake Midjourney proxy. --delay: seconds before an answer; --flavour: novicezk or trueai.")
