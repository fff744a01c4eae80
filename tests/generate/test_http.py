"""Kinds `openai-images` and `gemini-images` against a real server on this machine."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.generate import methods
from idtool.generate.http import HttpImages, ServerFailed
from idtool.generate.http_gemini import nearest_ratio
from idtool.generate.method import Made, Person, Request, Spec, with_changes
from idtool.generate.registry import METHODS
from idtool.generate.requests import Wish
from idtool.media.images import decode
from tests.generate.image_server import KEY, ImageServer, Say, Sent, gemini, openai, picture, serving
from tests.generate.made import configuration, run, table
from tests.generate.runners import bare_pipelines

Open = Callable[..., HttpImages]


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serving() as state:
        yield state


@pytest.fixture
def opened(server: ImageServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Methods on the server, ready to be called."""
    monkeypatch.setenv("TEST_KEY", KEY)
    made: list[HttpImages] = []

    def make(kind: str = "openai-images", **settings: Any) -> HttpImages:
        cls = METHODS.get(kind)
        values = {"base_url": server.base, "key_env": "TEST_KEY", "backoff_s": 0.02, "retries": 2, **settings}
        bindings = {"model": Binding("model", "api:painter-1", licence="terms of the server")}
        method = cls(
            Spec("painter", kind, bindings, cls.Settings.model_validate({"width": 48, "height": 32, **values}))
        )
        made.append(method)
        method.load(Context(str(tmp_path)))
        return method

    yield make
    for method in made:
        method.close()


def people(count: int) -> tuple[Person, ...]:
    return tuple(Person(f"/{k}.png", decode(picture(20, 30, seed=k))) for k in range(count))


def asked(method: HttpImages, *prompts: str, count: int = 0, **changes: Any) -> list[Made | Exception]:
    settings = with_changes(method.spec.settings, changes)
    size = (settings.width, settings.height)
    requests = [Request(f"id{k}", prompt, people(count), k, *size, settings) for k, prompt in enumerate(prompts)]
    for request in requests:
        method.check(request)
    return list(method.generate(requests))


def made(outcome: Made | Exception) -> Made:
    assert isinstance(outcome, Made), repr(outcome)
    return outcome


@pytest.fixture(params=["openai-images", "gemini-images"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def good(kind: str, data: bytes | None = None, **further: Any) -> Say:
    data = picture() if data is None else data
    return Say(payload=openai(data, **further) if kind == "openai-images" else gemini(data, **further))


def test_openai_without_references(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: Say(payload=openai(picture(), revised_prompt="a finer fox"))
    method = opened(parameters={"quality": "high"}, seed_field="seed", price_per_image=0.04)
    [outcome] = asked(method, "a fox")
    assert np.array_equal(made(outcome).image, decode(picture())), "as the server made it, not fitted"
    facts = {"revised_prompt": "a finer fox", "tokens_in": 100, "tokens_out": 4000, "cost": 0.04}
    assert made(outcome).facts == facts
    [sent] = server.sent
    assert (sent.method, sent.path) == ("POST", "/v1/images/generations")
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    wanted = {"model": "painter-1", "prompt": "a fox", "n": 1, "size": "48x32", "seed": 0, "quality": "high"}
    assert sent.fields == wanted


@pytest.mark.parametrize("style", ["edits", "json"])
def test_openai_with_several_references(server: ImageServer, opened: Open, style: str) -> None:
    server.script = lambda sent, before: good("openai-images")
    made(asked(opened(references=style, response_format="b64_json"), "two people", count=3)[0])
    [sent] = server.sent
    if style == "edits":
        assert sent.path == "/v1/images/edits"
        assert [name for name, _ in sent.files] == ["image[]"] * 3
        arrived = [data for _, data in sent.files]
        assert sent.fields["n"] == "1"
    else:
        assert sent.path == "/v1/images/generations"
        arrived = [base64.b64decode(uri.removeprefix("data:image/png;base64,")) for uri in sent.fields["image"]]
    assert sent.fields["response_format"] == "b64_json"
    for person, data in zip(people(3), arrived, strict=True):
        assert np.array_equal(decode(data), person.image), "in order, bit for bit"


def test_gemini_with_several_references(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: Say(payload=gemini(picture(), words="Here you are."))
    method = opened("gemini-images", price_in=2.0, price_out=100.0, image_size="2K", width=768, height=1024)
    [outcome] = asked(method, "two people", count=2)
    assert np.array_equal(made(outcome).image, decode(picture()))
    counts = {"tokens_in": 300, "tokens_out": 1290, "cost": (300 * 2 + 1290 * 100) / 1e6}
    assert made(outcome).facts == {"aspect_ratio": "3:4", "words": "Here you are.", **counts}
    [sent] = server.sent
    assert sent.path == "/v1/models/painter-1:generateContent"
    assert sent.headers["x-goog-api-key"] == KEY
    *references, text = sent.fields["contents"][0]["parts"]
    assert text == {"text": "two people"}
    for person, part in zip(people(2), references, strict=True):
        assert np.array_equal(decode(base64.b64decode(part["inline_data"]["data"])), person.image)
    config = sent.fields["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "3:4", "imageSize": "2K"}
    assert config["responseModalities"] == ["TEXT", "IMAGE"]


def test_large_references_are_reduced_and_images_fitted_only_when_asked(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: good("openai-images", picture(200, 100))
    method = opened(long_side=64)
    person = Person("/large.png", np.zeros((100, 200, 3), np.uint8))
    settings = with_changes(method.spec.settings, {"fit": "cover"})
    [outcome] = method.generate([Request("x", "p", (person,), 0, 50, 50, settings)])
    assert decode(server.sent[0].files[0][1]).shape == (32, 64, 3)
    assert made(outcome).image.shape == (50, 50, 3)
    assert made(outcome).facts["fitted_from"] == [200, 100]


def test_a_rate_limit_is_obeyed_by_all(server: ImageServer, opened: Open, kind: str) -> None:
    def script(sent: Sent, before: int) -> Say:
        return Say(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.6"}) if before == 0 else good(kind)

    server.script = script
    made(asked(opened(kind), "a fox")[0])
    first, second = server.sent
    assert second.at - first.at >= 0.59
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] != ""


def test_gemini_says_how_long_to_wait_in_the_body(server: ImageServer, opened: Open) -> None:
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "…RetryInfo", "retryDelay": "0.5s"}]}
    server.script = lambda sent, before: Say(429, {"error": error}) if before == 0 else good("gemini-images")
    made(asked(opened("gemini-images"), "a fox")[0])
    assert server.sent[1].at - server.sent[0].at >= 0.49


def test_a_wait_that_is_too_long_is_an_error(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: good("openai-images") if before == 0 else Say(429, {}, {"Retry-After": "3600"})
    method = opened(max_wait_s=1.0)
    made(asked(method, "a fox")[0])
    [failed] = asked(method, "another")
    assert isinstance(failed, ServerFailed)
    assert "asks to wait 3600 s" in str(failed)


def test_server_errors_pass(server: ImageServer, opened: Open, kind: str) -> None:
    server.script = lambda sent, before: Say(500, {"error": "oops"}) if before < 2 else good(kind)
    made(asked(opened(kind), "a fox")[0])
    assert len(server.sent) == 3


def test_server_errors_that_stay_are_the_rows(server: ImageServer, opened: Open, kind: str) -> None:
    def script(sent: Sent, before: int) -> Say:
        return Say(503, {"error": {"message": "overloaded"}}) if "bad" in json.dumps(sent.fields) else good(kind)

    server.script = script
    method = opened(kind)
    made(asked(method, "good")[0])
    bad, fine = asked(method, "bad", "good")
    assert isinstance(bad, ServerFailed)
    assert str(bad) == "unavailable: HTTP 503: overloaded"
    assert made(fine)


@pytest.mark.parametrize("say", [Say(wait=1.5), Say(payload={"a": "b" * 40}, drip=0.05)], ids=["silent", "drip"])
def test_time_outs(server: ImageServer, opened: Open, say: Say) -> None:
    server.script = lambda sent, before: say
    [failed] = asked(opened(timeout_s=0.4, retries=1), "a fox")
    assert isinstance(failed, ServerFailed)
    assert "timeout" in str(failed)
    assert len(server.sent) == 2


OPENAI_REFUSAL = {"error": {"code": "moderation_blocked", "type": "user_error", "message": "by the safety system"}}


@pytest.mark.parametrize(
    ("kind", "say", "says"),
    [
        ("openai-images", Say(400, OPENAI_REFUSAL), "safety system"),
        ("openai-images", Say(403, {"error": {"code": "content_policy_violation"}}), "403"),
        ("openai-images", Say(payload={"data": [{"error": {"code": "OutputImageSensitive"}}]}), "will not make it"),
        ("gemini-images", Say(payload={"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}), "is blocked"),
        ("gemini-images", Say(payload=gemini(finishReason="IMAGE_SAFETY")), "IMAGE_SAFETY"),
    ],
)
def test_refusals_are_the_requests(server: ImageServer, opened: Open, kind: str, say: Say, says: str) -> None:
    server.script = lambda sent, before: say
    [refused] = asked(opened(kind), "something unfit")
    assert isinstance(refused, Rejected)
    assert refused.reason == "refused"
    assert says in refused.message
    assert len(server.sent) == 1, "a refusal is not asked for again"


def test_words_in_place_of_an_image(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: Say(payload=gemini(words="I cannot draw that.", finishReason="STOP"))
    [refused] = asked(opened("gemini-images"), "a fox")
    assert isinstance(refused, Rejected)
    assert (refused.reason, "I cannot draw that." in refused.message) == ("no_image", True)


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (Say(payload={"data": [{"b64_json": "not base64!"}]}), "no base64"),
        (good("openai-images", picture()[:200]), "damaged"),
        (good("openai-images", b"<html>hello</html>"), "damaged"),
        (Say(payload={"data": []}), "holds no image"),
        (Say(payload=[1, 2]), "holds no image"),
        (Say(body=b"<html>"), "no JSON"),
        (Say(400, {"error": {"message": "size is not supported"}}), "bad_input: HTTP 400: size is not supported"),
        (Say(payload={"data": "x" * (2 << 20)}), "more than 1 MB"),
    ],
    ids=["base64", "truncated", "html", "empty", "list", "no-json", "bad-request", "too-large"],
)
def test_what_is_no_image_is_an_error(server: ImageServer, opened: Open, say: Say, says: str) -> None:
    server.script = lambda sent, before: good("openai-images") if before == 0 else say
    method = opened(max_mb=1)
    made(asked(method, "a fox")[0])
    [failed] = asked(method, "another")
    assert isinstance(failed, ServerFailed)
    assert says in str(failed)


def test_images_behind_urls(server: ImageServer, opened: Open) -> None:
    def script(sent: Sent, before: int) -> Say:
        if sent.method == "POST":
            return Say(payload=openai(url=f"http://127.0.0.1:{server.port}/first"))
        if sent.path == "/first":
            return Say(302, headers={"Location": "/second"})
        return Say(body=picture(), headers={"Content-Type": "image/png"})

    server.script = script
    [outcome] = asked(opened(response_format="url"), "a fox")
    assert np.array_equal(made(outcome).image, decode(picture()))
    assert [sent.path for sent in server.sent] == ["/v1/images/generations", "/first", "/second"]
    assert all("Authorization" not in sent.headers for sent in server.sent[1:]), "the key is for the server alone"


@pytest.mark.parametrize(
    ("url", "location", "says"),
    [
        ("file:///etc/hostname", "", "only http(s)"),
        ("/start", "file:///etc/hostname", "only http(s)"),
        ("ftp://127.0.0.1/x", "", "only http(s)"),
        ("/start", "http://169.254.169.254/latest", "local network"),
        ("http://localhost:1/x", "", "local network"),
        ("http://[::1]:1/x", "", "local network"),
        ("/start", "/start", "again and again"),
    ],
)
def test_urls_that_are_not_fetched(server: ImageServer, opened: Open, url: str, location: str, says: str) -> None:
    full = f"http://127.0.0.1:{server.port}{url}" if url.startswith("/") else url

    def script(sent: Sent, before: int) -> Say:
        return Say(payload=openai(url=full)) if sent.method == "POST" else Say(302, headers={"Location": location})

    server.script = script
    [failed] = asked(opened(), "a fox")
    assert isinstance(failed, ServerFailed)
    assert says in str(failed)


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (Say(401, {"error": {"message": f"Incorrect key: {KEY}"}}), r"wants a key \(HTTP 401\): the one in TEST_KEY"),
        (Say(403, {"error": {"message": "not your project"}}), r"wants a key \(HTTP 403\)"),
        (Say(400, {"error": {"message": "API key not valid.", "status": "INVALID_ARGUMENT"}}), r"wants a key"),
        (Say(402), "no credit left"),
        (Say(429, {"error": {"code": "insufficient_quota"}}), "no credit left"),
        (Say(404, {"error": {"message": "no model painter-1"}}), "no such model or path"),
        (Say(307, headers={"Location": "http://127.0.0.1:1/"}), "sends requests elsewhere"),
        (Say(500, {"error": "oops"}), None),
    ],
    ids=["401", "403", "bad-key", "402", "quota", "404", "redirect", "500"],
)
def test_what_no_request_survives_ends_the_run(
    server: ImageServer, opened: Open, kind: str, say: Say, says: str | None
) -> None:
    server.script = lambda sent, before: say
    if says is None:
        [failed] = asked(opened(kind), "a fox")
        assert isinstance(failed, ServerFailed)
        return
    with pytest.raises(MissingError, match=says) as caught:
        asked(opened(kind), "a fox", "another")
    assert KEY not in str(caught.value)


def test_a_server_that_is_down(server: ImageServer, opened: Open, kind: str) -> None:
    method = opened(kind, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(MissingError, match=r"gives no answer: the server: .*refused"):
        asked(method, "a fox")
    # Once it has answered, its failing is a row's error, which the budget counts.
    server.script = lambda sent, before: good(kind)
    method = opened(kind, retries=1)
    made(asked(method, "a fox")[0])
    method.client.base = "http://127.0.0.1:9/v1"
    [failed] = asked(method, "another")
    assert isinstance(failed, ServerFailed)


def test_concurrency_and_rate(server: ImageServer, opened: Open) -> None:
    server.script = lambda sent, before: Say(payload=openai(picture()), wait=0.1)
    asked(opened(concurrency=2), *["a fox"] * 6)
    assert server.most_under_way == 2
    server.sent.clear()
    began = time.monotonic()
    asked(opened(concurrency=6, requests_per_minute=600), *["a fox"] * 5)
    assert time.monotonic() - began >= 0.4
    gaps = np.diff(sorted(sent.at for sent in server.sent))
    assert gaps.min() > 0.05


def test_requests_that_do_not_fit(opened: Open) -> None:
    for kind in ("openai-images", "gemini-images"):
        method = opened(kind, people=(1, 2))
        for count, negative, reason in [(3, None, "people"), (0, None, "people"), (1, "fog", "negative_prompt")]:
            request = Request("x", "p", people(count), 0, 8, 8, method.spec.settings, negative=negative)
            with pytest.raises(Rejected) as caught:
                method.check(request)
            assert caught.value.reason == f"request.{reason}"
    assert nearest_ratio(1920, 1080, ("1:1", "16:9", "21:9")) == "16:9"


def test_keys_and_addresses(opened: Open, monkeypatch: pytest.MonkeyPatch, server: ImageServer) -> None:
    with pytest.raises(UsageError, match="no plain address"):
        opened(base_url="https://user:pass@host/v1")
    with pytest.raises(MissingError, match="needs the address of its server"):
        opened(base_url=None)
    monkeypatch.setenv("IDTOOL_IMAGES_BASE", server.base + "/")
    one = opened(base_url=None)
    assert one.client.base == server.base
    assert one.fingerprint() == opened(timeout_s=7.0, concurrency=1).fingerprint()
    assert one.fingerprint() != opened(fit="cover").fingerprint()
    assert server.base not in json.dumps([one.fingerprint(), one.spec.settings.model_dump(mode="json")])
    monkeypatch.setenv("TEST_KEY", "two words")
    with pytest.raises(MissingError, match="holds no key"):
        opened()
    monkeypatch.delenv("TEST_KEY")
    server.script = lambda sent, before: good("openai-images")
    made(asked(opened(), "a fox")[0])
    assert "Authorization" not in server.sent[-1].headers


def test_through_the_pipeline(
    server: ImageServer, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A run with a real photo, with a refusal and a server that quotes the key; the key is nowhere in the run."""
    monkeypatch.setenv("TEST_KEY", KEY)
    obama = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")

    def script(sent: Sent, before: int) -> Say:
        told = json.dumps(sent.fields)  # with spaces, which base64 has not
        if "un fit" in told:
            return Say(400, {"error": {"code": "content_policy_violation", "message": f"key {KEY}: no"}})
        if "o dd" in told:
            return Say(400, {"error": {"message": f"{KEY} asks oddly"}})
        return good(kind, **({"revised_prompt": f"{KEY}!"} if kind == "openai-images" else {"words": f"{KEY}!"}))

    server.script = script
    entry = {
        "kind": kind,
        "models": {"model": {"model": "api:painter-1", "licence": "terms of the server"}},
        "settings": {"base_url": server.base, "key_env": "TEST_KEY", "width": 64, "height": 64, "price_per_image": 0.5},
    }
    config = bare_pipelines(tmp_path / "pipelines.yaml", painter=entry)
    wishes = [Wish(prompt, (obama, obama)) for prompt in ("a man", "un fit", "o dd")]
    run("painter", wishes, tmp_path / "run", config=config, profile="bare", max_error_rate=1.0)
    rows = {row["prompt"]: row for row in table(tmp_path / "run")}
    outcomes = {prompt: (row["status"], row["reason"]) for prompt, row in rows.items()}
    assert outcomes["a man"][0] == "kept"
    assert outcomes["un fit"] == ("rejected", "refused")
    assert outcomes["o dd"] == ("error", "ServerFailed")
    assert json.loads(rows["a man"]["facts"])["cost"] == 0.5
    assert json.loads(rows["a man"]["models"])[0]["licence"] == "terms of the server"
    store = tmp_path / "run" / "media" / rows["a man"]["media"].removeprefix("store:")
    assert np.array_equal(decode(store.read_bytes()), decode(picture()))
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    everything += json.dumps(list(rows.values()), default=str).encode()
    assert KEY.encode() not in everything
    assert b"***" in everything
    assert methods.row(configuration(config), "painter", {}).state == "server"


def test_a_list_of_methods_says_what_is_missing(tmp_path: Path) -> None:
    entry = {"kind": "openai-images", "models": {"model": {"model": "api:x", "licence": "x"}}}
    local = {
        "kind": "openai-images",
        "models": {"model": {"model": "local:/x", "licence": "x"}},
        "settings": {"base_url": "http://x/v1"},
    }
    config = bare_pipelines(tmp_path / "pipelines.yaml", far=entry, near=local, none={"kind": "gemini-images"})
    whys = {row.method: row.why for row in methods.rows(configuration(config), {})}
    assert "setting base_url, or the variable IDTOOL_IMAGES_BASE" in whys["far"]
    assert "written api:<name>" in whys["near"]
    assert "model slot 'model'" in whys["none"]
