"""`switchhook ask` and `switchhook draw`: the whole road from the command line, with the truth about it."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import Fault, context
from webapp.contracts.pictures import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.asked import Report

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})\Z")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_who = click.option("--as", "who", metavar="WHO", help="E-mail, phone number or id; default: the first administrator.")
_model = click.option("--model", metavar="PROVIDER/MODEL", help="The one model that may serve it; default: by the rules.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON when it has ended.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Show the log's lines too, on standard error.")


class Printed:
    """Pieces on standard output, as they come."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def piece(self, piece: str | Progress) -> None:
        """Print a text."""
        if self._quiet or isinstance(piece, Progress):
            return
        click.echo(piece, nl=False)
        sys.stdout.flush()
        self._last = piece

    def anew(self) -> None:
        """Say that what was printed is void."""
        self.end()
        if not self._quiet:
            click.secho("It was interrupted and begins anew:", fg="yellow", err=True)

    def end(self) -> None:
        """End the last line."""
        if self._last and not self._last.endswith("\n"):
            click.echo()
        self._last = ""


@click.command()
@click.argument("prompt")
@_who
@_model
@click.option("--picture", "pictures", multiple=True, type=_FILE, help="A picture to look at; up to four.")
@click.option("--json-schema", type=_FILE, help="File with a JSON Schema that the answer must follow.")
@click.option("--json-object", is_flag=True, help="Have the answer as any JSON object.")
@click.option("--fresh", is_flag=True, help="Take no kept answer.")
@click.option("--when-cheap", is_flag=True, help="Wait for the vendor's cheaper hours, where it has dearer ones now.")
@click.option("--urgent", is_flag=True, help="Go forward in the queue, where the person's plan includes that.")
@click.option("--allocation", type=int, help="Credits that it may cost at most, 10 to 500.")
@_json
@_verbose
def ask(
    prompt: str,
    who: str | None,
    model: str | None,
    pictures: tuple[Path, ...],
    json_schema: Path | None,
    json_object: bool,
    fresh: bool,
    when_cheap: bool,
    urgent: bool,
    allocation: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Ask PROMPT by the whole road: limits, routing, books. `-` reads it from standard input.

    The answer goes to standard output as it comes, one line about it to standard error. It costs what it costs, and counts
    on the limits of whoever asks. Ctrl-C cancels it.

    Exit code 0 for an answer, 1 if it failed, 130 if it was cancelled.
    """
    if json_schema and json_object:
        raise click.UsageError("--json-schema and --json-object exclude each other.")
    parameters: dict[str, Any] = {"fresh": True} if fresh else {}
    if model:
        parameters["model"] = model
    if json_schema or json_object:
        parameters["output"] = {"name": "answer", "schema": _schema(json_schema) if json_schema else None}
    text = sys.stdin.read() if prompt == "-" else prompt
    with _silence(unless=verbose), context.application():
        from webapp.cli import asked
        from webapp.pipeline.intake import Intake

        _check_model(model)
        printed = Printed(quiet=as_json)
        intake = Intake(
            medium=asked.MEDIUM,
            text=text,
            person_id=asked.person(who),
            new_conversation=True,
            parameters=parameters,
            pictures=tuple(_picture(path) for path in pictures),
            may_wait=when_cheap,
            urgent=urgent,
            allocation=allocation,
        )
        report = asked.ask(intake, printed)
        printed.end()
        _tell(report, as_json)
    raise click.exceptions.Exit(report.exit_code)


@click.command()
@click.argument("prompt")
@_who
@_model
@click.option("--size", metavar="WIDTHxHEIGHT", help="Pixels that are wished for, such as 1024x768; the nearest is taken.")
@click.option("--seed", type=int, help="For the same picture again, where the model has such a thing.")
@click.option("--style", help="A word such as photographic.")
@click.option("--negative", help="What is not to be seen.")
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="File to write; default: by its hash."
)
@_json
@_verbose
def draw(
    prompt: str,
    who: str | None,
    model: str | None,
    size: str | None,
    seed: int | None,
    style: str | None,
    negative: str | None,
    out: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Have a picture made of PROMPT by the whole road: limits, routing, books.

    The files' names go to standard output. It costs what it costs, and counts on the limits of whoever asks. Ctrl-C cancels
    it.

    Exit code 0 for a picture, 1 if it failed, 130 if it was cancelled.
    """
    if out and not out.absolute().parent.is_dir():
        raise Fault(f"There is no folder {out.parent} to write to.")
    width, height = _size(size) if size else (None, None)
    given = {"model": model, "width": width, "height": height, "seed": seed, "style": style, "negative_prompt": negative}
    with _silence(unless=verbose), context.application():
        from webapp.cli import asked
        from webapp.pipeline.intake import Intake
        from webapp.routing.route import IMAGES

        _check_model(model, drawing=True)
        intake = Intake(
            medium=asked.MEDIUM,
            text=prompt,
            operation=IMAGES,
            person_id=asked.person(who),
            new_conversation=True,
            parameters={name: value for name, value in given.items() if value is not None},
        )
        with _bar(quiet=as_json) as bar:
            report = asked.ask(intake, bar)
        paths = _save(report, out)
        _tell(report, as_json, paths)
    raise click.exceptions.Exit(report.exit_code)


class Bar:
    """A bar that moves with what the vendor tells, and only pulses while it tells nothing."""

    def __init__(self, move: Any, restart: Any) -> None:
        self._move, self._restart = move, restart

    def piece(self, piece: str | Progress) -> None:
        """Move it."""
        if isinstance(piece, Progress):
            self._move(total=100, completed=piece.percent)

    def anew(self) -> None:
        """Begin it again."""
        self._restart(total=None)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Bar]:
    from functools import partial

    from rich import progress

    console = context.console(stderr=True)
    columns = (
        progress.TextColumn("drawing"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
    )
    shown = progress.Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    with shown:
        task = shown.add_task("drawing", total=None)
        yield Bar(partial(shown.update, task), partial(shown.reset, task))


@contextmanager
def _silence(*, unless: bool) -> Iterator[None]:
    """Keep the log off the terminal: what went wrong is told once, after the answer."""
    before = logging.root.manager.disable
    if not unless:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


# -- what goes in --------------------------------------------------------------------------------------------------------
def _check_model(name: str | None, *, drawing: bool = False) -> None:
    """Refuse a model of a provider that does not exist, before anything is stored or counted."""
    from webapp.pipeline import parameters
    from webapp.registry import current_registry

    if not name:
        return
    parameters.check({"model": name})
    registry = current_registry()
    there = registry.image_providers if drawing else registry.providers
    provider = name.partition("/")[0]
    if provider not in there:
        kind = "image provider" if drawing else "provider"
        raise Fault(f"There is no {kind} {provider!r}; there are {', '.join(sorted(there)) or 'none'}.")


def _schema(path: Path) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise Fault(f"{path} is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise Fault(f"{path} holds no JSON Schema: that is an object.")
    return found


def _picture(path: Path) -> bytes:
    from webapp.contracts.errors import BadInput
    from webapp.pipeline import pictures

    try:
        with path.open("rb") as file:
            data = file.read(pictures.MAX_BYTES + 1)
        pictures.look(data)
    except OSError as exc:
        raise Fault(f"{path} cannot be read: {exc.strerror}.") from exc
    except BadInput as exc:
        raise Fault(f"{path}: {exc.message}") from exc
    return data


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.match(text)
    if found is None:
        raise click.BadParameter("write it as 1024x768", param_hint="--size")
    return int(found[1]), int(found[2])


# -- what comes out ------------------------------------------------------------------------------------------------------
def _save(report: Report, out: Path | None) -> list[Path]:
    """Write the pictures: the first under the name that was given, the others with their number in it."""
    from webapp.pipeline import pictures

    paths = []
    for number, picture in enumerate(report.pictures, 1):
        path = out or Path(pictures.file_name(picture.sha256, picture.media_type))
        if out and number > 1:
            path = out.with_stem(f"{out.stem}-{number}")
        try:
            path.write_bytes(pictures.read(picture.sha256).data)
        except OSError as exc:
            kept = pictures.path_of(picture.sha256)
            raise Fault(f"The picture cannot be written to {path} ({exc.strerror}); it is kept as {kept}.") from exc
        paths.append(path)
    return paths


def _tell(report: Report, as_json: bool, paths: list[Path] | None = None) -> None:
    if as_json:
        files = {} if paths is None else {"files": paths}
        context.print_json(asdict(report) | files)
        return
    for path in paths or ():
        click.echo(path)
    if report.waits_until:
        click.secho(
            f"It waits for cheaper hours, until {context.when(report.waits_until)}; a worker then answers it "
            f"(request {report.request_id}).",
            fg="yellow",
            err=True,
        )
    elif report.interrupted:
        click.secho("Cancelled." if report.status == "cancelled" else f"It is {report.status}.", fg="yellow", err=True)
    elif report.exit_code:
        _tell_failure(report)
    if report.provider or report.cached:
        click.secho(_figures(report), dim=True, err=True)


def _tell_failure(report: Report) -> None:
    """What the person is told, and what is true."""
    from webapp.contracts.texts import clean

    click.secho(report.error_message or f"The request is {report.status}.", fg="red", err=True)
    for error in report.errors:
        click.echo(clean(f"{error.kind}: {error.detail or error.message}"), err=True)
    for number, call in enumerate(report.attempts, 1):
        said = " ".join(part for part in (call.outcome, call.error_code) if part)
        line = f"  {number}. {call.model or 'no model'}: {said}, {call.time_s:.2f} s. {call.detail}"
        click.echo(clean(line).rstrip(), err=True)


def _figures(report: Report) -> str:
    """One line: who answered, why, how much it was, what it cost, how long it took, whether it was kept."""
    from webapp.contracts.money import format_microusd

    parts = [f"{report.provider}/{report.model}" if report.provider else ""]
    parts.append(f"by {report.why}" if report.why else "")
    if report.pictures:
        parts.append(f"{len(report.pictures)} picture{'s' if len(report.pictures) > 1 else ''}")
        parts += [f"seed {picture.seed}" for picture in report.pictures if picture.seed is not None]
    else:
        parts.append(f"{report.input_tokens} tokens in, {report.output_tokens} out")
    parts += [format_microusd(report.cost_microusd), f"{report.time_s:.2f} s"]
    parts.append("a kept answer" if report.cached else "a new answer" if report.answer else "")
    return " · ".join(part for part in parts if part)
