"""What the Midjourney provider does beyond the common contract, with either proxy."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.midjourney import Midjourney, actions, register_providers, wire
from plugins.providers.midjourney.addresses import picture_url, proxy_url
from tests.fakes.midjourney import NOVICEZK, TRUEAI, FakeMidjourney
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, tiny_png
from webapp.plugin import (
    BadCredentials,
    Drawn,
    ImageAction,
    ImageCall,
    MalformedAnswer,
    OutOfCredit,
    Picture,
    Progress,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    Usage,
)
from webapp.routing.http import build_client

PNG = tiny_png(32, 32)


def call(**changes: object) -> ImageCall:
    values = {"request_id": "r1", "model": "", "prompt": "A lighthouse", "timeout_s": 9.0}
    return ImageCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture(params=[NOVICEZK, TRUEAI])
def proxy(request: pytest.FixtureRequest, http: httpx.Client) -> Iterator[FakeMidjourney]:
    with FakeMidjourney(flavour=request.param) as fake:
        yield fake


@pytest.fixture
def novicezk(http: httpx.Client) -> Iterator[FakeMidjourney]:
    with FakeMidjourney() as fake:
        yield fake


@pytest.fixture
def trueai(http: httpx.Client) -> Iterator[FakeMidjourney]:
    with FakeMidjourney(flavour=TRUEAI) as fake:
        yield fake


def provider_for(proxy: FakeMidjourney, **more: str) -> Midjourney:
    [found] = register_providers({**proxy.settings, **more})
    assert isinstance(found, Midjourney)
    return found


def drawing(proxy: FakeMidjourney, http: httpx.Client, **changes: object) -> tuple[list[int], Drawn, Usage]:
    *steps, drawn, usage = provider_for(proxy).draw(call(**changes), http)
    assert isinstance(drawn, Drawn)
    assert isinstance(usage, Usage)
    return [step.percent for step in steps if isinstance(step, Progress)], drawn, usage


def failure(proxy: FakeMidjourney, http: httpx.Client, **changes: object) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        list(provider_for(proxy).draw(call(**changes), http))
    assert KEY not in f"{raised.value.message} {raised.value.detail}"
    return raised.value


def paths(proxy: FakeMidjourney, word: str) -> list[str]:
    return [request.path for request in proxy.requests if word in request.path]


# -- what an operator must know --------------------------------------------------------------------------------------
def test_it_serves_by_name_only_and_warns_plainly() -> None:
    [bare] = register_providers({})
    assert bare.by_name_only
    assert bare.missing() == "MIDJOURNEY_PROXY_URL is not set"
    for word in ("no official API", "Discord account", "break", "terms"):
        assert word in bare.warning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIDJOURNEY_SECRET_HEADER", "a header: x"),
        ("MIDJOURNEY_SECRET_HEADER", "Host"),
        ("MIDJOURNEY_SECRET_HEADER", "content-length"),
        ("MIDJOURNEY_SECRET_HEADER", "Transfer-Encoding"),
        ("MIDJOURNEY_SECRET_HEADER", "Cookie"),
        ("MIDJOURNEY_SPEED", "warp"),
        ("MIDJOURNEY_POLL_S", "soon"),
        ("MIDJOURNEY_POLL_S", "0"),
        ("MIDJOURNEY_POLL_S", "-4"),
        ("MIDJOURNEY_POLL_S", "nan"),
        ("MIDJOURNEY_POLL_S", "inf"),
        ("MIDJOURNEY_POLL_S", "61"),
    ],
)
def test_a_setting_that_cannot_be_is_reported_by_its_name(novicezk: FakeMidjourney, name: str, value: str) -> None:
    assert provider_for(novicezk, **{name: value}).missing().startswith(name)


@pytest.mark.parametrize("end", ["", "/", "/mj", "/mj/"])
def test_the_address_may_end_in_mj(end: str) -> None:
    assert proxy_url(f" http://mj.example.com:8080{end} ") == "http://mj.example.com:8080"


def test_a_proxy_without_a_secret_is_sent_none(novicezk: FakeMidjourney, http: httpx.Client) -> None:
    provider = provider_for(novicezk, MIDJOURNEY_PROXY_SECRET="")
    with pytest.raises(BadCredentials):
        list(provider.draw(call(), http))
    assert "mj-api-secret" not in novicezk.requests[-1].headers


@pytest.mark.parametrize(("prefix", "sent"), [("Bearer", f"Bearer {KEY}"), ("Bearer ", f"Bearer {KEY}"), ("", KEY)])
def test_resellers_headers_are_a_setting(novicezk: FakeMidjourney, http: httpx.Client, prefix: str, sent: str) -> None:
    novicezk.header = "Authorization"
    provider = provider_for(novicezk, MIDJOURNEY_SECRET_HEADER="Authorization", MIDJOURNEY_SECRET_PREFIX=prefix)
    assert list(provider.draw(call(), http))
    assert novicezk.requests[0].header("Authorization") == sent
    assert "mj-api-secret" not in novicezk.requests[0].headers


@pytest.mark.parametrize("speed", ["fast", "turbo", "relax", "Fast "])
def test_a_speed_is_a_prefix_of_the_submission(trueai: FakeMidjourney, http: httpx.Client, speed: str) -> None:
    assert list(provider_for(trueai, MIDJOURNEY_SPEED=speed).draw(call(), http))
    assert trueai.requests[0].path == f"/mj-{speed.strip().lower()}/mj/submit/imagine"
    assert trueai.requests[1].path.startswith("/mj/task/")


# -- what is asked for -----------------------------------------------------------------------------------------------
def test_the_submission_says_what_the_call_says(proxy: FakeMidjourney, http: httpx.Client) -> None:
    drawing(proxy, http, width=1536, height=1024, seed=7, negative_prompt="fog, -- people", style="woodcut")
    [sent] = proxy.calls
    prompt = "A lighthouse, woodcut style --ar 3:2 --seed 7 --no fog, people"
    assert sent == {"prompt": prompt, "state": "r1", "path": "/mj/submit/imagine"}


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({}, "A lighthouse"),
        ({"prompt": "  A\nlighthouse\t"}, "A lighthouse"),
        ({"style": "raw"}, "A lighthouse --style raw"),
        ({"prompt": "A --ar 2:1 b", "width": 10}, "A --ar 2:1 b"),
        ({"prompt": "A —aspect 2:1", "width": 10}, "A —aspect 2:1"),
        ({"prompt": "A --seed 5 --no x", "seed": 9, "negative_prompt": "y"}, "A --seed 5 --no x"),
        ({"prompt": "A --turbo b --repeat 40 —fast"}, "A b"),
        ({"prompt": "A --r 9 --relax"}, "A"),
        ({"prompt": "A --raw --fastened"}, "A --raw --fastened"),
        ({"width": 1000, "height": 10}, "A lighthouse --ar 4:1"),
        ({"width": 1023, "height": 767}, "A lighthouse --ar 4:3"),
        ({"width": 0, "height": -1}, "A lighthouse"),
        ({"seed": -1}, "A lighthouse --seed 4294967295"),
        ({"seed": 2**32}, "A lighthouse --seed 0"),
        ({"style": "a --turbo b", "negative_prompt": "x --repeat 9"}, "A lighthouse, a turbo b style --no x repeat 9"),
    ],
)
def test_the_prompt_carries_the_parameters(changes: dict[str, object], prompt: str) -> None:
    assert wire.prompt(call(**changes)) == prompt


def test_a_picture_to_start_from_goes_along(proxy: FakeMidjourney, http: httpx.Client) -> None:
    drawing(proxy, http, source=Picture("image/png", PNG))
    assert proxy.calls[0]["base64Array"] == ["data:image/png;base64," + base64.b64encode(PNG).decode()]


# -- how it goes on --------------------------------------------------------------------------------------------------
def test_progress_is_told_after_every_look_and_the_picture_is_fetched_at_once(
    proxy: FakeMidjourney, http: httpx.Client
) -> None:
    progress, drawn, usage = drawing(proxy, http, seed=7)
    assert progress == [0, 0, 0, 37, 81]
    assert drawn.picture == Picture("image/png", PNG)
    assert drawn.seed == 7
    assert (usage.pictures, usage.vendor_request_id) == (1, next(iter(proxy.tasks)))
    assert len(paths(proxy, "/attachments/")) == 1
    assert paths(proxy, "/cancel") == []


def test_progress_never_goes_back_and_stays_between_0_and_100(novicezk: FakeMidjourney, http: httpx.Client) -> None:
    told = ["50%", "12%", "", "900%", "-3%", "99.9%"]
    novicezk.steps = [*(("IN_PROGRESS", percent) for percent in told), ("SUCCESS", "100%")]
    progress, _, _ = drawing(novicezk, http)
    assert progress == [0, 50, 50, 50, 100, 100, 100]


@pytest.mark.parametrize(
    ("told", "percent"),
    [
        ("45%", 45),
        (" 7 % ", 7),
        ("45", 45),
        (45, 45),
        (45.7, 45),
        ("45.7%", 45),
        (float("nan"), 0),
        (float("inf"), 100),
        (None, 0),
        (True, 0),
        ("waiting", 0),
        ("٤٥%", 0),
        ([], 0),
        (-5, 0),
        ("99999%", 0),
        (10**400, 100),
    ],
)
def test_progress_of_any_kind_is_a_whole_percentage(told: object, percent: int) -> None:
    assert wire.percent(told) == percent


@pytest.mark.parametrize("code", [1, 21, 22])
def test_a_task_that_is_taken_queued_or_there_already_is_watched(proxy: FakeMidjourney, http: httpx.Client, code: int) -> None:
    proxy.code = code
    assert drawing(proxy, http)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"code": 23, "description": "queue full"}, RateLimited),
        ({"code": 24, "description": "no", "properties": {"bannedWord": "gore"}}, RefusedByPolicy),
        ({"code": 3, "description": "无可用的账号实例"}, Unavailable),
        ({"code": 3, "description": "关联任务不存在或已失效"}, Rejected),
        ({"code": 4, "description": "validation"}, Rejected),
        ({"code": 9, "description": f"failed with {KEY}"}, Unavailable),
        ({"code": 9, "description": "可能包含敏感词"}, RefusedByPolicy),
        ({"code": 77}, Unavailable),
        ({"code": "23"}, RateLimited),
        ({"code": True, "result": "1"}, MalformedAnswer),
        ({"code": 1}, MalformedAnswer),
        ({"code": 1, "result": "../../task/queue"}, MalformedAnswer),
        ({"code": 1, "result": "x" * 65}, MalformedAnswer),
        ({"code": 1, "result": "1\n"}, MalformedAnswer),
        ({"code": 1, "result": True}, MalformedAnswer),
        ({}, MalformedAnswer),
    ],
)
def test_a_submissions_code_says_what_went_wrong(
    novicezk: FakeMidjourney, http: httpx.Client, answer: dict[str, object], kind: type[ProviderError]
) -> None:
    novicezk.faults.append(Fault(status=200, body=json.dumps(answer).encode()))
    error = failure(novicezk, http)
    assert type(error) is kind
    assert len(novicezk.requests) == 1
    assert "gore" not in error.message


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Banned prompt detected", RefusedByPolicy),
        ("Sorry! Our AI moderators feel your prompt might be against our community standards", RefusedByPolicy),
        ("可能包含敏感词", RefusedByPolicy),
        ("Invalid parameter: --foo", Rejected),
        ("Unrecognized parameter(s)", Rejected),
        ("任务超时", TimedOut),
        ("task timed out", TimedOut),
        ("You've run out of hours", OutOfCredit),
        (f"Discord says {KEY}", Unavailable),
        ("", Unavailable),
    ],
)
def test_the_reason_of_a_failed_task_decides_the_error(
    proxy: FakeMidjourney, http: httpx.Client, reason: str, kind: type[ProviderError]
) -> None:
    proxy.steps[-1], proxy.fail_reason = ("FAILURE", ""), reason
    assert type(failure(proxy, http)) is kind
    assert paths(proxy, "/cancel") == []
    assert paths(proxy, "/attachments/") == []


def test_a_task_that_somebody_cancelled_is_not_tried_again(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.steps = [("CANCEL", "")]
    error = failure(trueai, http)
    assert type(error) is Rejected
    assert not error.retryable


def test_a_task_that_asks_for_more_is_rejected_and_cancelled(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.steps = [("MODAL", "")]
    error = failure(trueai, http)
    assert type(error) is Rejected
    assert "remix" in error.message
    assert len(paths(trueai, "/cancel")) == 1


# -- looks that fail -------------------------------------------------------------------------------------------------
LOST_LOOKS = [
    Fault(path="/fetch", status=502),
    Fault(path="/fetch", status=429),
    Fault(path="/fetch", drop=True),
    Fault(path="/fetch", status=200, body=b"<html>"),
    Fault(path="/fetch", status=200, body=b"null"),
    Fault(path="/fetch", status=200, body=b""),
    Fault(path="/fetch", status=200, body=b"[]"),
    Fault(path="/fetch", cut_after_bytes=40),
]


@pytest.mark.parametrize("fault", LOST_LOOKS)
def test_two_looks_that_fail_do_not_lose_the_picture_and_three_do(
    trueai: FakeMidjourney, http: httpx.Client, fault: Fault
) -> None:
    trueai.faults += [fault, fault]
    progress, drawn, _ = drawing(trueai, http)
    assert drawn.picture.data == PNG
    assert progress[-1] == 81
    trueai.faults += [fault, fault, fault]
    assert failure(trueai, http).retryable
    assert len(paths(trueai, "/cancel")) == 1


def test_looks_that_fail_now_and_then_do_not_add_up(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.faults += [Fault(path="/fetch", status=502), Fault(path="/fetch")] * 4
    progress, _, _ = drawing(trueai, http)
    assert progress[-1] == 81
    assert trueai.faults == []


def test_a_secret_that_is_refused_in_a_look_ends_the_call_at_once(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.faults.append(Fault(path="/fetch", status=401, body=KEY.encode()))
    assert type(failure(trueai, http)) is BadCredentials
    assert len(paths(trueai, "/fetch")) == 1


# -- the picture -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("position", [0, 1, 8, 40, len(PNG) - 1])
def test_a_picture_that_was_cut_is_fetched_again_and_never_handed_on(
    proxy: FakeMidjourney, http: httpx.Client, position: int
) -> None:
    cut = Fault(path="/attachments/", cut_after_bytes=position)
    proxy.faults.append(cut)
    _, drawn, _ = drawing(proxy, http)
    assert drawn.picture.data == PNG
    proxy.faults += [cut, cut]
    error = failure(proxy, http)
    assert type(error) is MalformedAnswer
    assert error.usage is not None
    assert error.usage.pictures == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(path="/attachments/", status=404), Unavailable),
        (Fault(path="/attachments/", status=302, headers={"Location": "http://169.254.169.254/"}), Unavailable),
        (Fault(path="/attachments/", drop=True), Unavailable),
        (Fault(path="/attachments/", status=200, body=b"<html>expired</html>"), MalformedAnswer),
        (Fault(path="/attachments/", status=200, body=PNG + bytes(21 * 1024 * 1024)), MalformedAnswer),
    ],
)
def test_a_picture_that_cannot_be_fetched_counts_all_the_same(
    novicezk: FakeMidjourney, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    novicezk.faults += [fault, fault]
    error = failure(novicezk, http)
    assert type(error) is kind
    assert error.usage is not None
    assert error.usage.pictures == 1
    assert len(paths(novicezk, "/attachments/")) == 2


def test_the_secret_goes_to_the_proxys_api_alone(novicezk: FakeMidjourney, http: httpx.Client) -> None:
    with FakeMidjourney() as elsewhere:
        assert picture_url(f"{novicezk.url}/attachments/x.png", novicezk.url)
        novicezk.picture_url = "/attachments/relative.png"
        assert drawing(novicezk, http)
        assert elsewhere.requests == []
    [request] = [request for request in novicezk.requests if "/attachments/" in request.path]
    assert KEY not in str(request.headers)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://cdn.discordapp.com/x.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://user:pw@cdn.discordapp.com/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:6379/",
        "http://localhost/x.png",
        "http://redis:6379/",
        "http://db.internal/",
        "http://printer.local./",
        "http://10.0.0.7/x.png",
        "http://[::1]/x.png",
        "http://[::ffff:127.0.0.1]/x.png",
        "http://2130706433/x.png",
        "http://0x7f.1/x.png",
        "http://0/x.png",
        "http://224.0.0.1/x.png",
        "http://[::1",
        "http://cdn.discordapp.com:x/",
        "https://cdn.discordapp.com/" + "x" * 4000,
    ],
)
def test_a_picture_in_somebodys_own_network_is_not_fetched(novicezk: FakeMidjourney, http: httpx.Client, url: str) -> None:
    with pytest.raises(ValueError):
        picture_url(url, novicezk.url)
    novicezk.picture_url = url
    before = len(novicezk.requests)
    error = failure(novicezk, http)
    assert type(error) is MalformedAnswer
    assert not any("/attachments/" in request.path for request in novicezk.requests[before:])


@pytest.mark.parametrize("url", ["https://cdn.discordapp.com/attachments/1/2.png?ex=6&hm=a", "http://1.1.1.1/x.png"])
def test_a_picture_on_the_open_internet_may_be_fetched(url: str) -> None:
    assert picture_url(url, "http://127.0.0.1:8080") == url


# -- hanging up ------------------------------------------------------------------------------------------------------
def test_closing_the_generator_cancels_the_task_where_the_proxy_can(proxy: FakeMidjourney, http: httpx.Client) -> None:
    with closing(provider_for(proxy).draw(call(), http)) as steps:  # type: ignore[type-var]
        assert next(steps) == Progress(0)
        assert next(steps) == Progress(0)
    [task] = proxy.tasks.values()
    assert task.cancelled == (proxy.flavour == TRUEAI)


def test_a_task_that_was_there_before_is_not_ours_to_cancel(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.code = 21
    with closing(provider_for(trueai).draw(call(), http)) as steps:  # type: ignore[type-var]
        next(steps)
    assert paths(trueai, "/cancel") == []


def test_a_task_that_takes_too_long_is_cancelled(trueai: FakeMidjourney, http: httpx.Client) -> None:
    trueai.steps = [("IN_PROGRESS", "1%")]
    assert type(failure(trueai, http, timeout_s=0.3)) is TimedOut
    [task] = trueai.tasks.values()
    assert task.cancelled


def test_looks_become_rarer_while_a_task_takes_longer(novicezk: FakeMidjourney, http: httpx.Client) -> None:
    novicezk.steps = [("IN_PROGRESS", "1%")]
    failure(novicezk, http, timeout_s=0.5)
    assert 2 <= len(paths(novicezk, "/fetch")) <= 20  # up to 47 if the pauses did not grow


# -- what can be done with a picture ---------------------------------------------------------------------------------
def test_either_proxy_offers_to_enlarge_vary_and_draw_again(proxy: FakeMidjourney, http: httpx.Client) -> None:
    _, drawn, _ = drawing(proxy, http)
    labels = {action.label for action in drawn.actions}
    assert labels == {"U1", "U2", "U3", "U4", "V1", "V2", "V3", "V4", "Reroll"}
    assert all(len(action.token) <= 2000 for action in drawn.actions)


@pytest.mark.parametrize("label", ["U2", "V3", "Reroll"])
def test_every_action_comes_back_and_is_done(proxy: FakeMidjourney, http: httpx.Client, label: str) -> None:
    _, drawn, _ = drawing(proxy, http)
    [action] = [action for action in drawn.actions if action.label == label]
    _, again, usage = drawing(proxy, http, action=action, seed=7)
    assert again.picture.data == PNG
    assert again.seed is None
    assert usage.pictures == 1
    [_, second] = proxy.calls
    assert second["taskId"] == next(iter(proxy.tasks))
    assert second["state"] == "r1"
    if proxy.flavour == TRUEAI:
        assert second["path"] == "/mj/submit/action"
    else:
        assert second["path"] == "/mj/submit/change"
        assert second.get("index") == {"U2": 2, "V3": 3, "Reroll": None}[label]


def test_an_enlarged_picture_offers_only_what_can_still_be_done(proxy: FakeMidjourney, http: httpx.Client) -> None:
    _, drawn, _ = drawing(proxy, http)
    action = next(action for action in drawn.actions if action.label == "U1")
    _, enlarged, _ = drawing(proxy, http, action=action)
    assert [action.label for action in enlarged.actions] == (["Zoom Out 2x"] if proxy.flavour == TRUEAI else [])


def test_an_action_on_a_picture_that_the_proxy_forgot_is_rejected(proxy: FakeMidjourney, http: httpx.Client) -> None:
    _, drawn, _ = drawing(proxy, http)
    proxy.tasks.clear()
    assert type(failure(proxy, http, action=drawn.actions[0])) is Rejected


@pytest.mark.parametrize(
    "token",
    [
        "change 1 U5",
        "change 1 U0",
        "change 1 U11",
        "change 1 R1",
        "change 1 u1",
        "change ../1 U1",
        "change 1 U1\n",
        "change  U1",
        "button 1 XX::JOB::upsample::1",
        'button 1 MJ::JOB::"}',
        "button 1 MJ::JOB::ü",
        "button 1 MJ::" + "x" * 500,
        "button 1",
        " change 1 U1",
    ],
)
def test_a_token_that_we_did_not_write_is_rejected(token: str) -> None:
    with pytest.raises(Rejected):
        actions.submission(ImageAction("U1", token), "Midjourney")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80) | st.from_regex(r"(button|change) \S{1,20} \S{1,30}", fullmatch=True))
def test_any_token_is_rejected_or_a_call_of_the_two_known_kinds(token: str) -> None:
    try:
        path, body = actions.submission(ImageAction("x", token), "Midjourney")
    except Rejected:
        return
    assert (path, body.keys() - {"index"}) in [
        ("/mj/submit/action", {"taskId", "customId"}),
        ("/mj/submit/change", {"taskId", "action"}),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("MJ::JOB::reroll::0"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["code", "description", "result", "properties", "status", "progress", "imageUrl", "failReason"])
            | st.sampled_from(["action", "buttons", "customId", "label", "emoji", "bannedWord"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(max_size=12), json_values, max_size=4) | json_values.filter(lambda v: isinstance(v, dict)))
def test_any_json_is_a_task_and_a_submission_or_a_typed_error(answer: dict[str, object]) -> None:
    task = wire.task(answer)
    assert 0 <= task.percent <= 100
    assert wire.failure(task, "Midjourney", "")
    assert isinstance(wire.said(answer), str)
    for action in actions.of_buttons("1", task.buttons or ()):
        assert actions.submission(action, "Midjourney")
    try:
        assert wire.submitted(answer, "Midjourney", "").task_id
    except ProviderError:
        return


# -- is it there? ----------------------------------------------------------------------------------------------------
def test_a_look_at_the_proxy_proves_the_secret_too(proxy: FakeMidjourney, http: httpx.Client) -> None:
    assert provider_for(proxy).check(http).ok
    asked = [request.path for request in proxy.requests]
    last = "/mj/task/list-by-condition" if proxy.flavour == TRUEAI else "/mj/task/queue"
    assert asked == ["/health", last]
    health = provider_for(proxy, MIDJOURNEY_PROXY_SECRET="wrong").check(http)
    assert not health.ok
    assert "MIDJOURNEY_PROXY_SECRET" in health.cure


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"", b"null", b"[" * 99_999])
def test_a_server_that_is_no_proxy_is_not_healthy(proxy: FakeMidjourney, http: httpx.Client, body: bytes) -> None:
    proxy.faults.append(Fault(path="/mj/task/", status=200, body=body))
    assert not provider_for(proxy).check(http).ok
