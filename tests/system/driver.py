"""A supervisor in a process of its own, over children described in JSON: `python -m tests.system.driver '{…}'`."""

from __future__ import annotations

import json
import sys

from webapp.cli import embedded_queue
from webapp.cli.console import Console
from webapp.cli.supervisor import Backoff, Child, Supervisor
from webapp.settings import read_settings


def main(given: str) -> None:
    plan = json.loads(given)
    console = Console()
    with Supervisor(console, keep_fds=plan["keep_fds"], backoff=Backoff(**plan["backoff"])) as supervisor:
        if plan["queue"]:
            settings = read_settings()
            supervisor.start(embedded_queue.child(settings, stop_order=9))
            assert supervisor.until(lambda: embedded_queue.answers(settings.queue_socket), 10)
            console.show("the queue answers")
        for child in plan["children"]:
            supervisor.start(Child(**{**child, "command": tuple(child["command"])}))
        supervisor.run()
        console.show("stopping")
    console.show("stopped")


if __name__ == "__main__":
    main(sys.argv[1])
