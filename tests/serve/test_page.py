"""The page in a real Chromium: its pure modules, then what a user does with it on the real app and the tiny model."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from edgesteer.controller import Controller
from edgesteer.sidecar import Sidecar, write_sidecar

pytest.importorskip("fastapi", reason="needs the extra `serve`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

    from edgesteer.runtime.model import LlamaModel

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

expect = playwright.expect
expect.set_options(timeout=30_000)

REPEATED_SEEDS = "{ let last = 1; Math.random = () => (last = (last * 48271) % 2147483647) / 2147483647; }\n"
"""Run in every page, so that an answer by a random seed is the same on every run."""


# ---- the server ----


@dataclass(frozen=True)
class Site:
    """A server that runs. prompt: one whose likeliest answer does not end by itself, steered or not."""

    url: str
    sidecars: Path
    prompt: str


@contextmanager
def serving(model: LlamaModel, controllers: list[Controller], n_sequences: int = 4, **options: Any) -> Iterator[str]:
    """Serve the app until the block ends; options: of Settings, and max_waiting."""
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.worker import Worker
    from edgesteer.serve.app import create_app
    from edgesteer.serve.server import Server, open_socket
    from edgesteer.serve.service import Settings

    engine = Engine(model, controllers, context_tokens=16_384, n_sequences=n_sequences, threads=1, reloadable=True)
    worker = Worker(engine, max_waiting=options.pop("max_waiting", 64))
    server = Server(create_app(worker, model, Settings("tiny", **options)), drain_seconds=0)
    listening = open_socket("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def warm(make_controller: Callable[..., Controller]) -> Controller:
    return replace(make_controller(4, 32, name="warm"), positive="warm", negative="cold", safe_range=(-1.0, 1.5))


@pytest.fixture(scope="module")
def formal(make_controller: Callable[..., Controller]) -> Controller:
    controller = make_controller(4, 32, name="formal", blocks=(1, 3), seed=1)
    return replace(controller, positive="formal", negative="casual")


@pytest.fixture(scope="module")
def site(
    tiny_llama: LlamaModel, warm: Controller, formal: Controller, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Serves warm, and formal.gguf can be loaded."""
    sidecars = tmp_path_factory.mktemp("sidecars")
    write_sidecar(sidecars / "formal.gguf", Sidecar(tiny_llama.fingerprint, {"formal": formal}))
    with serving(tiny_llama, [warm], defaults={"warm": 0.5}, sidecars=sidecars) as url:
        yield Site(url, sidecars, prompt=next(filter(lambda text: is_endless(url, text), "ABCDEFGHIJKLMNOPQRSTUVWXYZ")))


def is_endless(url: str, text: str) -> bool:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 300}
    answers = [complete(url, {**body, **more}) for more in ({}, {"steering": {}})]
    return all(answer["choices"][0]["finish_reason"] == "length" for answer in answers)


def complete(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the server's answer, not streamed."""
    answer = httpx.post(f"{url}v1/chat/completions", json={**body, "stream": False}, timeout=60)
    return dict(answer.raise_for_status().json())


@pytest.fixture(scope="module")
def strict_url(tiny_llama: LlamaModel, warm: Controller) -> Iterator[str]:
    """Wants a key, and answers one request at a time."""
    with serving(tiny_llama, [warm], n_sequences=1, max_waiting=0, api_key="sesame") as url:
        yield url


# ---- the browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless", "--disable-gpu"]
        )
        yield launched
        launched.close()


@dataclass
class Visit:
    """A page that is open, all that went wrong in it, and the bodies of the answers that it asked for."""

    page: Page
    context: BrowserContext
    problems: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def expect_failed_requests(self) -> None:
        """Failures of requests, of which Chromium tells the console, are meant in this test."""
        self.problems = [each for each in self.problems if "Failed to load resource" not in each]

    # what a user sees

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def slider(self) -> Locator:
        return self.page.get_by_role("slider", name="warm")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer .body")

    @property
    def alpha_line(self) -> str:
        return self.page.locator(".lines path.value").get_attribute("d") or ""

    # what a user does

    def set(self, **settings: object) -> None:
        """Fill in settings: temperature, max_tokens, seed, system."""
        if self.page.locator("#settings").get_attribute("open") is None:
            self.page.get_by_text("Settings").click()
        for name, value in settings.items():
            self.page.locator(f"#{name.replace('_', '-')}").fill(str(value))

    def send(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str) -> str:
        """Send a text and return the answer, when it is complete."""
        before = self.page.locator("article.assistant").count()
        self.send(text)
        expect(self.page.locator("article.assistant")).to_have_count(before + 1)
        self.wait()
        return self.page.locator("article.assistant .body").last.inner_text()

    def wait(self) -> None:
        """Wait until no answer is being written."""
        expect(self.button("Send")).to_be_visible()
        expect(self.page.locator(".answer.running")).to_have_count(0)


Opener = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Opener]:
    """Return a function that opens the page; in the end, nothing may have gone wrong in any."""
    with ExitStack() as closing:
        opened: list[Visit] = []

        def open_page(url: str = site.url, *, script: str = "", ready: bool = True, **options: Any) -> Visit:
            context = browser.new_context(**options)
            closing.callback(context.close)
            context.add_init_script(REPEATED_SEEDS + script)
            made = Visit(context.new_page(), context)
            opened.append(made)
            watch(made, url)
            made.page.goto(url)
            if ready:
                expect(made.slider).to_be_visible()
            return made

        yield open_page
        assert [problem for each in opened for problem in each.problems] == []


def watch(visit: Visit, url: str) -> None:
    """Note what goes wrong, what is loaded from elsewhere, and what is asked of the model."""

    def request(sent: Any) -> None:
        if urlsplit(sent.url).netloc != urlsplit(url).netloc and not sent.url.startswith("blob:"):
            visit.problems.append(f"a request to {sent.url}")
        if sent.url.endswith("/v1/chat/completions"):
            visit.asked.append(sent.post_data_json)

    visit.page.on("request", request)
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    visit.page.on(
        "console", lambda said: visit.problems.append(said.text) if said.type in ("error", "warning") else None
    )


@pytest.fixture(scope="module")
def js(browser: Browser, site: Site) -> Iterator[Callable[..., Any]]:
    """Return a function that calls a JavaScript function of (a module of the page, an argument)."""
    page = browser.new_page()
    page.goto(site.url)

    def call(module: str, function: str, argument: object = None) -> Any:
        code = f"async (given) => ({function})(await import('/page/{module}.js'), given)"
        return page.evaluate(code, argument)

    yield call
    page.close()


# ---- pure modules ----


@pytest.mark.parametrize(
    ("alpha", "tone"), [(0, -2), (1, 2), (0.5, 0), (0.45, 0), (0.25, -1), (1.3, 3), (-9, -4), (9, 4), (None, None)]
)
def test_the_poles_are_two_tones_from_the_middle(js: Callable[..., Any], alpha: float | None, tone: int | None) -> None:
    assert js("scale", "(m, alpha) => m.tone(alpha)", alpha) == tone


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (-0.3, 1.2, [-0.5, 0, 0.5, 1, 1.5]),
        (0, 40, [0, 10, 20, 30, 40]),
        (2, 2, [2]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(
    js: Callable[..., Any], low: float, high: float, expected: list[float]
) -> None:
    assert js("scale", "(m, [low, high]) => m.ticks(low, high, 4)", [low, high]) == expected


def test_numbers_are_written_with_a_true_minus_and_no_negative_zero(js: Callable[..., Any]) -> None:
    shown = js("scale", "(m, values) => values.map((value) => m.format(value))", [-0.5, 0.004, -0.004, 2, None])
    assert shown == ["−0.50", "0.00", "0.00", "2.00", "–"]


def test_events_may_be_cut_anywhere_between_packets(js: Callable[..., Any]) -> None:
    stream = 'data: {"a": 1}\n\n: a comment\n\ndata: two\ndata: lines\n\n'
    code = "(m, text) => { const cutter = new m.EventCutter(); return [...text].flatMap((c) => cutter.take(c)); }"
    assert js("sse", code, stream) == ['{"a": 1}', "two\nlines"]
    assert js("sse", code, stream.replace("\n", "\r\n")) == ['{"a": 1}', "two\nlines"]


def test_a_character_that_is_split_over_two_packets_arrives_whole(js: Callable[..., Any]) -> None:
    code = """async (m) => {
        const bytes = new TextEncoder().encode("data: é\\n\\n");
        const parts = new Blob([bytes.slice(0, 7)]).stream();
        const stream = new ReadableStream({ start(control) {
            control.enqueue(bytes.slice(0, 7)); control.enqueue(bytes.slice(7)); control.close(); } });
        const found = [];
        for await (const data of m.events(stream)) found.push(data);
        return found;
    }"""
    assert js("sse", code) == ["é"]


def test_paragraphs_and_code_are_found_without_fences_and_empty_lines(js: Callable[..., Any]) -> None:
    text = "One\ntwo.\n\n\nThree\n```python\nif x:\n\n    y\n```\nFour"
    found = js("blocks", "(m, text) => m.blocks(text).map((b) => [b.code, text.slice(b.start, b.end)])", text)
    assert found == [[False, "One\ntwo."], [False, "Three"], [True, "if x:\n\n    y"], [False, "Four"]]


def test_code_whose_end_has_not_come_yet_is_code(js: Callable[..., Any]) -> None:
    found = js("blocks", "(m, text) => m.blocks(text).map((b) => [b.code, text.slice(b.start, b.end)])", "```\na\nb")
    assert found == [[True, "a\nb"]]


def chunk(text: str, token: int | None, finish: str | None = None, **readings: float) -> dict[str, Any]:
    """A chunk with telemetry: alpha by controller."""
    measured = {
        name: {"alpha": alpha, "setpoint": 1, "running_mean": None, "effort": 1, "push": [alpha, 2 * alpha]}
        for name, alpha in readings.items()
    }
    return {
        "choices": [{"delta": {"content": text}, "finish_reason": finish}],
        "edgesteer": {"text": text, "token": token, **({"readings": measured} if measured else {})},
    }


TAKE = "(m, chunks) => { const a = m.newAnswer({}, {}); chunks.forEach((c) => m.takeChunk(a, c)); return a; }"


def test_readings_belong_to_the_token_before(js: Callable[..., Any]) -> None:
    opening = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    chunks = [opening, chunk("A", 1), chunk("", 2, warm=0.25), chunk("b", 3, warm=0.5), chunk("", None, "stop", warm=3)]
    answer = js("answer", TAKE, chunks)
    assert answer["content"] == "Ab"
    assert [token["text"] for token in answer["tokens"]] == ["A", "", "b"]
    assert [token["readings"]["warm"]["alpha"] for token in answer["tokens"]] == [0.25, 0.5, 3]
    assert answer["push"]["warm"] == {"latest": [3, 6], "sum": [3.75, 7.5], "count": 3}
    assert answer["finish"] == "stop"


def test_text_that_only_ends_an_answer_is_shown(js: Callable[..., Any]) -> None:
    answer = js("answer", TAKE, [chunk("A", 1), chunk(" end", None, "stop")])
    assert answer["content"] == "A end"
    assert [token["text"] for token in answer["tokens"]] == ["A", " end"]


def test_a_line_has_gaps_where_nothing_was_measured(js: Callable[..., Any]) -> None:
    path = js("chart", "(m, series) => m.linePath(series, (i) => i * 10, (v) => v)", [1, 2, None, 3])
    assert path == "M0.0 1.0h0L10.0 2.0M30.0 3.0h0"


@pytest.mark.parametrize(
    ("status", "message", "wait", "expected"),
    [
        (429, "", "7", "Try again in 7 s."),
        (429, "", None, "Try again in a moment."),
        (401, "", None, "Enter its key."),
        (400, "max_tokens is too large", None, "max_tokens is too large"),
        (503, "", None, "Start it again"),
        (500, "oh", None, "oh"),
    ],
)
def test_a_refusal_says_what_to_do(
    js: Callable[..., Any], status: int, message: str, wait: str | None, expected: str
) -> None:
    assert expected in js("api", "(m, [...given]) => m.explain(...given).message", [status, message, wait])


@pytest.mark.parametrize(
    "junk",
    [
        None,
        3,
        {},
        {"conversation": {"messages": [{"role": "user"}]}},
        {"conversation": {"messages": [{"role": "assistant", "answer": {}}]}},
    ],
)
def test_what_another_page_left_in_the_storage_is_not_used(js: Callable[..., Any], junk: object) -> None:
    state = js("store", "(m, saved) => m.restore(saved)", junk)
    assert state["conversation"] == {"system": "", "messages": []}


def test_an_answer_that_was_running_when_the_page_went_is_stopped(js: Callable[..., Any]) -> None:
    answer = js("answer", TAKE, [chunk("A", 1)])
    assert answer["state"] == "running"
    saved = {
        "conversation": {"messages": [{"role": "assistant", "answer": answer}]},
        "strengths": {"warm": 1, "x": "y"},
    }
    state = js("store", "(m, saved) => m.restore(saved)", saved)
    assert state["conversation"]["messages"][0]["answer"]["state"] == "stopped"
    assert state["strengths"] == {"warm": 1}


def test_a_conversation_that_is_too_long_to_save_is_saved_without_readings(js: Callable[..., Any]) -> None:
    answer = js("answer", TAKE, [chunk("A", 1), chunk("b", 2, warm=1)])
    code = """(m, answer) => {
        const tokens = Array.from({ length: 100_000 }, () => answer.tokens[0]);
        const state = m.restore(null);
        state.conversation.messages = [{ role: "assistant", answer: { ...answer, tokens } }];
        const saved = m.saveState(state);
        return [saved, m.loadState().conversation.messages[0].answer];
    }"""
    saved, kept = js("store", code, answer)
    assert saved
    assert kept["content"] == "Ab"
    assert kept["tokens"] == [{"text": "Ab", "readings": {}}]


# ---- asking and steering ----


def test_an_answer_streams_with_readings(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0, max_tokens=30)
    page.ask(site.prompt)
    assert page.page.locator("[data-token]").count() > 3
    assert page.page.locator(".answer [data-tone]").count() > 3
    assert page.page.locator(".answer [title*='warm: alpha']").count() > 3
    assert page.alpha_line.count("L") > 20
    assert page.page.locator(".bars rect.bar").count() == 4
    assert page.page.locator(".bars line.mean").count() == 4
    expect(page.page.locator(".facts")).to_contain_text("warm 0.50 · 30 tokens")
    assert page.asked[0]["steering"] == {"warm": 0.5}


def test_a_token_has_the_tone_of_the_reading_that_came_after_it(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0, max_tokens=20)
    page.ask(site.prompt)
    report = complete(site.url, page.asked[0])["edgesteer"]["steering"][0]
    shown = page.page.locator(".answer [data-token]").all()
    for token in shown:
        index = int(token.get_attribute("data-token") or "")
        title = token.get_attribute("title")
        expected = f"{report['alpha'][index]:.2f}".replace("-", "−") if index < len(report["alpha"]) else None
        assert title == (f"warm: alpha {expected}" if expected else None)


def test_the_slider_moves_by_keyboard_and_changes_the_next_answer_and_the_chart(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0, max_tokens=20)
    first, line = page.ask(site.prompt), page.alpha_line
    page.slider.focus()
    for _ in range(20):
        page.page.keyboard.press("ArrowLeft")
    expect(page.page.locator(".slider output")).to_have_text("−0.50")
    assert page.slider.get_attribute("aria-valuetext") == "−0.50, towards cold"
    page.button("New conversation").click()
    assert page.ask(site.prompt) != first
    assert page.alpha_line != line
    assert [each["steering"] for each in page.asked] == [{"warm": 0.5}, {"warm": -0.5}]


def test_zero_is_unsteered_and_reached_by_button_and_double_click(visit: Opener) -> None:
    page = visit()
    output = page.page.locator(".slider output")
    page.button("Reset warm to 0").click()
    expect(output).to_have_text("0.00")
    page.slider.press("End")
    expect(output).to_have_text("3.00")
    page.slider.dblclick()
    expect(output).to_have_text("0.00")
    page.set(max_tokens=3)
    page.ask("Hello")
    assert page.asked[0]["steering"] == {}
    expect(page.page.locator("#readings")).to_contain_text("warm was off in this answer.")


def test_a_strength_beyond_the_safe_range_is_told_in_words(visit: Opener) -> None:
    page = visit()
    warning = page.page.locator(".slider .warning")
    expect(warning).to_be_hidden()
    page.slider.fill("1.6")
    expect(warning).to_have_text("Beyond the safe range, −1.0 to 1.5: the text may break.")
    page.set(max_tokens=3)
    page.ask("Hello")
    expect(page.page.locator(".foot .warning")).to_contain_text("safe range")


def test_a_slider_stops_at_the_least_strength_that_the_server_takes(visit: Opener) -> None:
    page = visit()
    page.slider.press("Home")  # the slider reaches -3, as far as on its other side
    expect(page.page.locator(".slider output")).to_have_text("−2.00")


def test_the_scrubber_shows_any_tokens_readings(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0, max_tokens=10)
    page.ask(site.prompt)
    numbers = page.page.locator(".numbers")
    newest = numbers.inner_text()
    page.page.get_by_role("slider", name="Token").press("Home")
    expect(numbers).not_to_have_text(newest, use_inner_text=True)
    assert page.page.locator(".pointed").count() <= 1  # a token may have no text of its own


def test_colours_can_be_switched_off_and_stay_off(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0, max_tokens=10)
    page.ask(site.prompt)
    token = page.page.locator(".answer [data-tone='4'], .answer [data-tone='-4'], .answer [data-tone='2']").first
    assert background(token) != "rgba(0, 0, 0, 0)"
    page.page.get_by_label("Colour tokens by alpha").uncheck()
    expect(token).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    page.page.wait_for_timeout(400)
    page.page.reload()
    expect(page.page.get_by_label("Colour tokens by alpha")).not_to_be_checked()


def background(element: Locator) -> str:
    return str(element.evaluate("(element) => getComputedStyle(element).backgroundColor"))


def wait_until_idle(page: Visit, url: str) -> None:
    """Wait until the server has noticed that nobody waits for an answer."""
    while httpx.get(f"{url}health", timeout=60).json()["running"]:
        page.page.wait_for_timeout(20)


# ---- stop, edit, regenerate, compare ----


def test_escape_stops_the_answer_and_keeps_what_there_is(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(temperature=0)
    page.send(site.prompt)
    expect(page.page.locator(".answer [data-token]").first).to_be_attached()
    page.page.keyboard.press("Escape")
    page.wait()
    expect(page.page.locator(".facts")).to_contain_text("stopped")
    kept = page.answers.inner_text()
    assert kept
    wait_until_idle(page, site.url)
    page.set(max_tokens=3)
    page.ask("Go on")
    assert [each["role"] for each in page.asked[1]["messages"]] == ["user", "assistant", "user"]


def test_editing_a_message_drops_what_follows(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    for text in ("One", "Two", "Three"):
        page.ask(text)
    page.button("Edit").nth(1).click()
    field = page.page.get_by_label("Edit your message")
    expect(field).to_have_value("Two")
    expect(field).to_be_focused()
    field.fill("Deux")
    field.press("Enter")
    expect(page.page.locator(".user")).to_have_count(2)
    page.wait()
    assert page.page.locator(".bubble").all_inner_texts() == ["One", "Deux"]
    assert [each["content"] for each in page.asked[-1]["messages"] if each["role"] == "user"] == ["One", "Deux"]


def test_an_edit_can_be_given_up(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    page.ask("One")
    page.button("Edit").click()
    page.page.keyboard.press("Escape")
    expect(page.page.locator(".bubble")).to_have_text("One")
    expect(page.button("Edit")).to_be_focused()
    assert len(page.asked) == 1


def test_regenerate_answers_the_same_prompt_with_another_seed(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    page.ask("One")
    page.slider.fill("-1")
    page.button("Regenerate").click()
    expect(page.page.locator(".facts")).to_contain_text("warm −1.00")
    first, second = page.asked
    assert first["messages"] == second["messages"]
    assert first["seed"] != second["seed"]
    assert page.page.locator("article").count() == 2


def test_compare_asks_twice_at_the_same_time_with_one_seed(visit: Opener, site: Site) -> None:
    page = visit()
    events: list[str] = []
    for name in ("request", "requestfinished"):
        page.page.on(name, lambda sent, name=name: events.append(name) if "chat" in sent.url else None)
    page.button("Compare with unsteered").click()
    page.set(temperature=0.7, max_tokens=200)
    page.ask(site.prompt)
    expect(page.answers).to_have_count(2)
    assert events[:2] == ["request", "request"]  # both are asked before either has ended
    steered, plain = page.asked
    assert steered["steering"] == {"warm": 0.5}
    assert plain == {**steered, "steering": {}}
    shown = [words(text) for text in page.answers.all_text_contents()]
    assert shown[0] != shown[1]
    expect(page.page.locator(".compared h3")).to_have_text(["Steered: warm 0.50", "Unsteered, for comparison"])
    page.button("Compare with unsteered").click()
    page.ask("More")
    assert len(page.asked) == 3
    assert words(page.asked[2]["messages"][1]["content"]) == shown[0]


def words(text: str) -> str:
    """The text without white space, of which paragraphs do not show all."""
    return "".join(text.split())


# ---- settings, storage, export ----


def test_settings_and_the_system_message_are_sent(visit: Opener) -> None:
    page = visit()
    page.set(system="Be brief.", temperature=0.5, max_tokens=4, seed=7)
    page.ask("Hello")
    asked = page.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["max_tokens"], asked["seed"]) == (0.5, 4, 7)


def test_what_is_left_empty_is_left_to_the_server(visit: Opener) -> None:
    page = visit()
    with page.page.expect_request("**/v1/chat/completions"):
        page.send("Hello")
    page.page.keyboard.press("Escape")  # without a limit, an answer is as long as chance makes it
    page.wait()
    assert set(page.asked[0]) == {"model", "messages", "steering", "telemetry", "seed", "stream"}


def test_a_setting_that_cannot_be_is_not_sent(visit: Opener) -> None:
    page = visit()
    page.set(temperature=9)
    page.send("Hello")
    expect(page.page.locator("#temperature")).to_be_focused()
    expect(page.page.get_by_label("Message", exact=True)).to_have_value("Hello")
    assert page.asked == []


def test_conversation_and_sliders_survive_a_reload(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(system="Be brief.", max_tokens=10)
    page.slider.fill("1.2")
    page.ask(site.prompt)
    text, line = page.answers.inner_text(), page.alpha_line
    page.page.reload()
    expect(page.page.locator(".bubble")).to_have_text(site.prompt)
    assert page.answers.inner_text() == text
    expect(page.page.locator(".slider output")).to_have_text("1.20")
    assert page.alpha_line == line
    expect(page.page.get_by_label("System message")).to_have_value("Be brief.")
    page.button("New conversation").click()
    expect(page.page.locator("article")).to_have_count(0)
    page.page.reload()
    expect(page.slider).to_be_visible()
    expect(page.page.locator("article")).to_have_count(0)


@pytest.mark.parametrize(
    "script",
    [
        "localStorage.setItem('edgesteer-page-1', '{\"conversation\": ')",
        "for (const name of ['localStorage', 'sessionStorage'])"
        "  Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });",
    ],
    ids=["torn", "denied"],
)
def test_a_storage_that_is_torn_or_denied_does_no_harm(visit: Opener, script: str) -> None:
    page = visit(script=script)
    page.set(max_tokens=3)
    page.ask("Hello")


def test_the_conversation_is_exported_as_json_and_as_markdown(visit: Opener, site: Site) -> None:
    page = visit()
    page.set(system="Be brief.", max_tokens=5, seed=3)
    page.button("Compare with unsteered").click()
    page.ask(site.prompt)
    exported = json.loads(export(page, "JSON, with readings"))
    assert exported["model"] == "tiny"
    assert exported["system"] == "Be brief."
    user, answer = exported["messages"]
    assert user == {"role": "user", "content": site.prompt}
    assert answer["steering"] == {"warm": 0.5}
    assert answer["sampling"]["seed"] == 3
    assert answer["unsteered"]["steering"] == {}
    assert "alpha" in answer["tokens"][0]["readings"]["warm"]
    markdown = export(page, "Markdown")
    assert f"## You\n\n{site.prompt}\n" in markdown
    assert f"## tiny (warm 0.50; seed 3)\n\n{answer['content']}" in markdown
    assert "### The same, unsteered" in markdown


def export(page: Visit, name: str) -> str:
    page.page.locator("#export summary").click()
    with page.page.expect_download() as download:
        page.button(name).click()
    assert re.fullmatch(r"edgesteer-[\d-]+\.(json|md)", download.value.suggested_filename)
    return Path(download.value.path()).read_bytes().decode()


def test_messages_are_copied(visit: Opener) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.set(max_tokens=3)
    page.ask("Copy me")
    page.button("Copy your message").click()
    expect(page.page.locator("#speech")).to_contain_text("Copied")
    assert page.page.evaluate("() => navigator.clipboard.readText()") == "Copy me"


# ---- controllers at run time ----


def test_a_sidecar_is_loaded_and_unloaded(visit: Opener, site: Site) -> None:
    page = visit()
    expect(page.page.locator("#selector")).to_be_hidden()
    page.page.get_by_text("Sidecars").click()
    page.button("Load formal.gguf").click()
    formal = page.page.get_by_role("slider", name="formal")
    expect(formal).to_be_visible()
    formal.fill("0.9")
    page.set(temperature=0, max_tokens=8)
    page.ask(site.prompt)
    assert page.asked[0]["steering"] == {"warm": 0.5, "formal": 0.9}
    warm_line = page.alpha_line
    page.page.get_by_label("Readings of").select_option("formal")
    assert page.alpha_line != warm_line
    assert page.page.locator(".bars rect.bar").count() == 2
    expect(page.page.locator(".legend")).to_contain_text("casual")
    page.button("Unload formal.gguf").click()
    expect(formal).to_have_count(0)
    expect(page.slider).to_be_visible()


def test_a_file_that_cannot_be_loaded_is_told(visit: Opener, site: Site) -> None:
    broken = site.sidecars / "broken.gguf"
    broken.write_bytes(b"no sidecar")
    page = visit()
    page.page.get_by_text("Sidecars").click()
    page.button("Load broken.gguf").click()
    expect(page.page.get_by_role("alert")).to_contain_text("broken.gguf")
    page.button("Dismiss").click()
    expect(page.page.locator("#banner")).to_be_hidden()
    broken.unlink()
    page.expect_failed_requests()


# ---- failures ----


def test_a_server_with_a_key_is_asked_with_it(visit: Opener, strict_url: str) -> None:
    page = visit(strict_url, ready=False)
    dialog = page.page.get_by_role("dialog", name="This server asks for its key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_text("The server refused that key.")).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill("sesame")
    page.button("Use key").click()
    expect(page.slider).to_be_visible()
    page.page.reload()
    expect(page.slider).to_be_visible()
    page.set(max_tokens=3)
    page.ask("Hello")
    assert "sesame" not in page.page.evaluate("() => JSON.stringify(localStorage)")
    page.expect_failed_requests()


def test_without_a_key_the_page_says_so_and_sends_nothing(visit: Opener, strict_url: str) -> None:
    page = visit(strict_url, ready=False)
    page.button("Cancel").click()
    expect(page.page.get_by_role("alert")).to_contain_text("The server wants a key")
    page.send("Hello")
    expect(page.page.get_by_role("dialog")).to_be_visible()
    assert page.asked == []
    page.expect_failed_requests()


def test_a_busy_server_is_told_and_asked_again(visit: Opener, site: Site, strict_url: str) -> None:
    page = visit(strict_url, script="sessionStorage.setItem('edgesteer-key', 'sesame')")
    page.set(temperature=0)
    page.button("Compare with unsteered").click()
    page.send(site.prompt)  # twice, and only one is answered at a time
    expect(page.page.locator(".error")).to_contain_text("The server is busy")
    expect(page.page.locator(".error")).to_contain_text("Try again in 1 s.")
    page.page.keyboard.press("Escape")
    page.wait()
    wait_until_idle(page, strict_url)
    page.button("Compare with unsteered").click()
    page.set(max_tokens=3)
    page.page.get_by_role("button", name=re.compile("Regenerate|Try again")).click()
    page.wait()
    expect(page.page.locator(".error")).to_have_count(0)
    page.expect_failed_requests()


def test_a_server_that_is_gone_is_told_and_the_answer_tried_again(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    page.context.set_offline(True)
    page.send("Hello")
    expect(page.page.locator(".error")).to_contain_text("The server does not answer.")
    expect(page.page.locator(".error")).to_contain_text("edgesteer serve")
    expect(page.page.locator("#speech")).to_contain_text("The server does not answer.")
    page.context.set_offline(False)
    page.button("Try again").click()
    page.wait()
    expect(page.page.locator(".error")).to_have_count(0)
    assert page.answers.count() == 1
    page.expect_failed_requests()


def stream(*chunks: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)


def test_an_answer_that_breaks_off_is_told(visit: Opener) -> None:
    page = visit()
    page.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream(chunk("Half an", 1))))
    page.send("Hello")
    expect(page.page.locator(".error")).to_contain_text("The connection broke off")
    expect(page.answers).to_have_text("Half an")


def test_what_a_model_writes_never_becomes_html(visit: Opener) -> None:
    page = visit()
    html = "<img src=x onerror='document.title=1'><script>document.title = 1</script>"
    body = stream(chunk(html, 1), chunk("", None, "stop")) + "data: [DONE]\n\n"
    page.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    page.ask(html)
    assert page.answers.inner_text() == html
    assert page.page.locator("main img, main script").count() == 0
    assert page.page.title() == "tiny · edgesteer"


# ---- for everybody ----


def test_every_control_has_a_name(visit: Opener) -> None:
    page = visit()
    page.button("Compare with unsteered").click()
    page.set(max_tokens=5)
    page.ask("Hello")
    page.page.get_by_text("Sidecars").click()
    page.page.locator("#export summary").click()
    tree = page.context.new_cdp_session(page.page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "slider", "combobox", "checkbox", "spinbutton", "link", "img", "DisclosureTriangle"}
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 20
    assert [node for node in controls if not node["name"]["value"].strip()] == []


def test_everything_can_be_done_by_keyboard_with_the_focus_in_sight(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    page.page.evaluate("() => document.activeElement.blur()")
    seen: dict[str, bool] = {}
    while (name := next_stop(page.page)) not in seen:
        seen[name] = name == "the browser itself" or focus_shows(page.page)
    wanted = {"new", "export", "message", "compare", "send", "slider-warm", "reset", "coloured", "settings", "seed"}
    assert wanted <= set(seen)
    assert [name for name, shows in seen.items() if not shows] == []


def next_stop(page: Page) -> str:
    page.keyboard.press("Tab")
    return str(
        page.evaluate("""() => {
            const { id, ariaLabel, tagName, parentElement, textContent } = document.activeElement;
            if (tagName === "BODY") return "the browser itself";
            if (ariaLabel?.startsWith("Reset")) return "reset";
            return id || (tagName === "SUMMARY" ? parentElement.id : textContent.trim());
        }""")
    )


def focus_shows(page: Page) -> bool:
    """Whether the surroundings of the element in focus look otherwise without it."""
    box = page.evaluate("""() => {
        const { x, y, width, height } = document.activeElement.getBoundingClientRect();
        return { x: Math.max(0, x - 20), y: Math.max(0, y - 20), width: width + 40, height: height + 40 };
    }""")
    focused = page.screenshot(clip=box, animations="disabled")
    page.evaluate("() => { window.stop_ = document.activeElement; window.stop_.blur(); }")
    blurred = page.screenshot(clip=box, animations="disabled")
    page.evaluate("() => window.stop_.focus()")
    return focused != blurred


def test_a_screen_reader_hears_sentences_and_not_tokens(visit: Opener) -> None:
    page = visit()
    page.page.evaluate("""() => {
        window.heard = [];
        const note = (changes) => changes.forEach((c) => c.addedNodes.forEach((n) => heard.push(n.textContent)));
        new MutationObserver(note).observe(document.querySelector("#speech"), { childList: true });
    }""")
    chunks = [chunk(text, i) for i, text in enumerate(["One", " two", ".", " Three", " four", "."])]
    body = stream(*chunks, chunk("", None, "stop")) + "data: [DONE]\n\n"
    page.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    page.ask("Hello")
    heard = page.page.evaluate("() => window.heard")
    assert " ".join(heard) == "One two. Three four. End of the answer."
    assert len(heard) <= 3
    assert page.page.locator("#speech").get_attribute("aria-live") == "polite"
    assert page.page.locator("#log").get_attribute("aria-live") == "off"


def test_enter_sends_and_shift_enter_starts_a_line(visit: Opener) -> None:
    page = visit()
    page.set(max_tokens=3)
    page.page.get_by_label("Message", exact=True).press_sequentially("One")
    page.page.keyboard.press("Shift+Enter")
    page.page.keyboard.type("two")
    assert page.asked == []
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".bubble")).to_have_text("One\ntwo")
    page.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(visit: Opener, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    page.slider.fill("1.6")
    page.set(max_tokens=5)
    page.ask("Hello")
    ink = page.page.locator(".answer .body").evaluate("(element) => getComputedStyle(element).color")
    grounds = [background(swatch) for swatch in page.page.locator(".swatches i").all()]
    assert len(set(grounds)) == 9
    pairs = [(ink, ground, "a tone") for ground in grounds]
    for selector in (
        ".bubble",
        ".facts",
        ".warning >> nth=0",
        ".foot .warning",
        ".hint >> nth=0",
        "#send",
        ".poles",
        "#new",
        "h2 >> nth=1",
    ):
        pairs.append((*page.page.locator(selector).first.evaluate(COLOURS), selector))
    assert [(each, contrast(text, ground)) for text, ground, each in pairs if contrast(text, ground) < 4.5] == []


COLOURS = """(element) => {
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
}"""


def contrast(text: str, ground: str) -> float:
    """The contrast ratio of WCAG 2."""
    lighter, darker = sorted((luminance(text), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    levels = [int(level) / 255 for level in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_black_on_white_has_contrast_21() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)


def test_on_a_phone_the_panel_is_below_and_nothing_is_cut_off(visit: Opener, site: Site) -> None:
    page = visit(viewport={"width": 360, "height": 740})
    page.set(max_tokens=20)
    page.button("Compare with unsteered").click()
    page.ask(site.prompt)
    panel, chat = page.page.locator("#panel").bounding_box(), page.page.locator("main").bounding_box()
    assert panel is not None
    assert chat is not None
    assert panel["y"] >= chat["y"] + chat["height"]
    assert page.page.evaluate("() => document.documentElement.scrollWidth") == 360
    page.page.get_by_role("link", name="Steering").click()
    expect(page.slider).to_be_in_viewport()


def test_nothing_moves_for_those_who_want_no_motion(visit: Opener, site: Site) -> None:
    page = visit(reduced_motion="reduce")
    page.set(temperature=0)
    page.send(site.prompt)
    expect(page.page.locator(".answer.running")).to_be_attached()
    names = page.page.evaluate("""() => [...document.querySelectorAll(".running .body > *, .running .body")]
        .map((element) => getComputedStyle(element, "::after").animationName)""")
    assert names
    assert set(names) == {"none"}
    page.page.keyboard.press("Escape")
    page.wait()
