"""What the server answers about a picture: as the page asks it, and as others might."""

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from explained import encoded, photo
from made_site import eventually

from atlas.explain import icons
from atlas.explain.explainer import Explainer
from atlas.explain.plain import summary
from atlas.rundir.directory import RunDirectory
from atlas.serve import limits, notebook
from atlas.serve.site_files import API_HEADER

PICTURE = encoded(photo(1))


class Client:
    """Asks one server, a connection a question."""

    def __init__(self, address: str) -> None:
        self.host = urlsplit(address).netloc

    def open(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        answer = self.open(method, path, body, **headers)
        return answer.status, json.loads(answer.read())

    def lines(self, path: str, body: bytes | None = PICTURE) -> list[dict[str, Any]]:
        answer = self.open("POST" if body else "GET", path, body)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.read().splitlines()]


@pytest.fixture(scope="module")
def client(undisturbed: RunDirectory, workshop: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(workshop)
        patch.setattr(notebook, "_servers", {})
        patch.setattr(limits, "RATE", 10_000.0)
        frame = notebook.show(undisturbed.path)
        yield Client(frame.address)
        frame.close()


def test_the_page_knows_that_it_may_ask(client: Client) -> None:
    assert client.open("GET", "/atlas.json").headers[API_HEADER] == "1"
    status, facts = client.ask("GET", "/api/explain")
    assert (status, facts["limits"]) == (200, {"bytes": limits.MOST_UPLOAD_BYTES, "pixels": limits.MOST_UPLOAD_PIXELS})
    eventually(lambda: client.ask("GET", "/api/explain")[1]["ready"], "the network is loaded", 30)


def test_the_summary_is_the_library_s(client: Client, explainer: Explainer) -> None:
    status, facts = client.ask("POST", "/api/explain", PICTURE)
    assert status == 200
    assert facts == summary(explainer.look(PICTURE))


def test_classes_removed_positions_icons_and_groups(client: Client, explainer: Explainer) -> None:
    picture = explainer.look(PICTURE)
    status, facts = client.ask("POST", "/api/explain/classes?class=3&class=5", PICTURE)
    assert status == 200
    for number in (3, 5):
        for layer in ("middle", "last"):
            expected = picture.attribution([number])[number][layer].reshape(-1)
            assert facts["classes"][str(number)][layer] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    *progress, last = client.lines("/api/explain/removed?layer=last&class=3")
    shares = [line["share"] for line in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    expected = np.concatenate(list(picture.without_each("last", [3])), axis=1)[0]
    assert last["classes"]["3"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    icons = client.lines("/api/explain/icons?layer=last")
    norms = np.linalg.norm(picture.activations("last"), axis=1)
    assert [line["position"] for line in icons] == [
        position for position in np.argsort(-norms, kind="stable").tolist() if norms[position]
    ]
    assert all(line["picture"].startswith("data:image/webp;base64,") for line in icons)
    first, *rest = client.lines("/api/explain/groups?layer=last&count=3")
    assert len(first["groups"]) == 3
    assert [line["group"] for line in rest] == [0, 1, 2]
    channels = client.lines("/api/neurons?layer=stem&channel=4&channel=1", None)
    assert {line["channel"] for line in channels} == {4, 1}
    assert client.lines("/api/neurons?layer=stem&channel=4", None)[0] in channels  # kept


def test_the_forward_pass(client: Client, explainer: Explainer) -> None:
    status, facts = client.ask("POST", "/api/forward", PICTURE)
    assert status == 200
    names = [layer["name"] for layer in facts["layers"]]
    assert names[0] == "picture"
    assert {"stem", "middle", "last"} <= set(names)
    layer = facts["layers"][names.index("middle")]
    channel = layer["strongest"][0]["channel"]
    status, unit = client.ask("POST", f"/api/forward/unit?step={layer['step']}&channel={channel}&y=1&x=2", PICTURE)
    assert status == 200
    assert unit["total"] == pytest.approx(unit["value"], rel=1e-4, abs=1e-6)
    status, maps = client.ask("POST", f"/api/forward/maps?step={layer['step']}&channel={channel}", PICTURE)
    values = np.frombuffer(base64.b64decode(maps["maps"][str(channel)]), "<f4")
    assert len(values) == layer["shape"][1] * layer["shape"][2]
    inside = values.reshape(layer["shape"][1:])[1:-1, 1:-1]
    assert inside.max() == pytest.approx(layer["strongest"][0]["largest"], rel=1e-6)
    logits = explainer.look(PICTURE).logits().astype(float)
    assert facts["output"]["log_sum"] == pytest.approx(np.log(np.exp(logits).sum()), rel=1e-6)
    assert values[layer["shape"][2] + 2] == pytest.approx(unit["value"], rel=1e-6)


def test_samples_are_the_runs_own(client: Client) -> None:
    status, facts = client.ask("GET", "/api/samples")
    assert status == 200
    assert facts["samples"]
    answer = client.open("GET", f"/{facts['samples'][0]['address']}")
    data = answer.read()
    assert answer.headers["content-type"] == "image/png"
    status, summary = client.ask("POST", "/api/explain", data)
    assert status == 200
    assert (summary["picture"]["width"], summary["picture"]["height"]) == (128, 96)
    assert client.ask("GET", "/api/samples/99")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/explain", b"", 422, "The picture is empty"),
        ("/api/explain", b"%PDF-1.4", 422, "The picture is a PDF"),
        ("/api/explain", b"\0\0\0\x20ftypisom", 422, "The picture is a video"),
        ("/api/explain/classes", PICTURE, 422, "class is missing: give class=NUMBER 1 to 64 times."),
        ("/api/explain/classes?class=7", PICTURE, 422, "tiny:make has no class 7: it has 7, counted from 0."),
        ("/api/explain/classes?class=-1", PICTURE, 422, "class is '-1', expected a whole number from 0."),
        ("/api/explain/classes?class=1&network=2", PICTURE, 422, "There is no network 2; the run has 1"),
        ("/api/explain/icons?layer=../../etc/passwd", PICTURE, 422, "The run has no layer '../../etc/passwd'"),
        ("/api/explain/groups?layer=last&count=11", PICTURE, 422, "11 groups were asked for, expected 2 to 10."),
        ("/api/forward/unit?step=1", PICTURE, 422, "channel is missing: channel=NUMBER"),
        ("/api/forward/unit?step=999&channel=0", PICTURE, 422, "tiny:make has no step 999."),
    ],
)
def test_wrong_questions_are_answered_with_a_sentence(
    client: Client, path: str, body: bytes, status: int, sentence: str
) -> None:
    answered, facts = client.ask("POST", path, body)
    assert (answered, facts["sentence"][: len(sentence)]) == (status, sentence)


def test_large_pictures_are_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    status, facts = client.ask("POST", "/api/explain", bytes(limits.MOST_UPLOAD_BYTES + 1))
    assert status == 413
    assert facts["sentence"].startswith("The picture's file has 20,000,001 bytes or more, and at most 20,000,000 are")

    def parts() -> Iterator[bytes]:
        for _ in range(25):
            yield bytes(1_000_000)

    connection = http.client.HTTPConnection(client.host, timeout=60)
    connection.request("POST", "/api/explain", parts(), encode_chunked=True, headers={"transfer-encoding": "chunked"})
    assert connection.getresponse().status == 413
    monkeypatch.setattr("atlas.serve.cached_explainer.MOST_UPLOAD_PIXELS", 5000)
    status, facts = client.ask("POST", "/api/explain", encoded(photo(9)))
    assert status == 422
    assert facts["sentence"].startswith("The picture has 6,144 pixels, and at most 5,000 are taken.")


def test_bodies_are_taken_nowhere_else(client: Client) -> None:
    assert client.open("POST", "/atlas.json", PICTURE).status == 413
    assert client.open("GET", "/api/explain", PICTURE).status == 413


def test_pages_of_other_sites_may_not_ask(client: Client) -> None:
    status, facts = client.ask("POST", "/api/explain", PICTURE, Origin="https://example.org")
    assert (status, facts["sentence"]) == (
        403,
        "This page asks from https://example.org; only the atlas's own page may ask.",
    )
    assert client.ask("POST", "/api/explain", PICTURE, Origin=f"http://{client.host}")[0] == 200


def test_a_slow_picture_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ARRIVAL", 0.3)
    connection = http.client.HTTPConnection(client.host, timeout=30)
    connection.putrequest("POST", "/api/explain")
    connection.putheader("content-length", "1000")
    connection.endheaders(b"x" * 10)
    answer = connection.getresponse()
    assert answer.status == 408
    assert "did not arrive within 0.3 s" in json.loads(answer.read())["sentence"]


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Icons take as long as real ones; the times at which one of their steps was taken."""
    steps: list[float] = []
    draw = icons.draw

    def slowly(*arguments: Any, progress: Callable[[float], None], **options: Any) -> Any:
        def on_progress(share: float) -> None:
            time.sleep(0.1)
            steps.append(time.monotonic())
            progress(share)

        return draw(*arguments, progress=on_progress, **options)

    monkeypatch.setattr(icons, "draw", slowly)
    return steps


def test_a_cancelled_picture_stops_working_at_once(client: Client, slow_steps: list[float]) -> None:
    answer = client.open("POST", "/api/explain/icons?layer=middle", PICTURE)
    answer.readline()
    assert answer.fp is not None
    answer.close()
    left = time.monotonic()
    time.sleep(1.0)
    assert all(step < left + 0.5 for step in slow_steps)
    began = time.monotonic()
    answer = client.open("POST", "/api/explain/icons?layer=last", PICTURE)
    assert answer.readline()
    assert time.monotonic() - began < 8  # the other 136 icons are not in the way
    answer.close()


def test_pictures_that_nobody_waits_for_are_left_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    look = Explainer.look

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.4)
        looked.append(time.monotonic())
        return look(*arguments, **options)

    monkeypatch.setattr(Explainer, "look", slowly)
    abandoned = []
    for seed in range(40, 50):
        connection = http.client.HTTPConnection(client.host, timeout=60)
        connection.request("POST", "/api/explain", encoded(photo(seed)))
        abandoned.append(connection)
    time.sleep(0.2)
    for connection in abandoned:
        connection.close()
    began = time.monotonic()
    assert client.ask("POST", "/api/explain", encoded(photo(50)))[0] == 200
    assert time.monotonic() - began < 2.5
    assert len(looked) <= 4


def test_short_questions_do_not_wait_for_icons(client: Client, slow_steps: list[float]) -> None:
    stream = client.open("POST", "/api/explain/icons?layer=middle", PICTURE)
    stream.readline()
    began = time.monotonic()
    assert client.ask("POST", "/api/explain", encoded(photo(8)))[0] == 200
    assert time.monotonic() - began < 2
    stream.close()


def test_several_people_do_not_mix(client: Client, explainer: Explainer) -> None:
    pictures = [encoded(photo(seed)) for seed in range(20, 32)]  # more than are kept
    expected = [summary(explainer.look(picture)) for picture in pictures]
    answers_of: list[list[Any]] = [[] for _ in pictures]

    def person(number: int) -> None:
        for _ in range(3):
            answers_of[number].append(client.ask("POST", "/api/explain", pictures[number])[1])
            answers_of[number].append(client.ask("POST", "/api/explain/classes?class=2", pictures[number])[1])

    threads = [threading.Thread(target=person, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in enumerate(answers_of):
        assert answers[0] == answers[2] == answers[4] == expected[number]
        effects = explainer.look(pictures[number]).attribution([2])[2]["last"].reshape(-1)
        assert answers[1]["classes"]["2"]["last"] == pytest.approx(effects, rel=1e-3, abs=1e-6)
