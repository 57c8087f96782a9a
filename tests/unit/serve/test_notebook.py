"""An atlas in a notebook: what the cell holds, who is answered by what is served, and when that ends."""

import html.parser
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.formatters import DisplayFormatter
from made_site import eventually
from playwright.sync_api import Browser, expect

import atlas
from atlas.config.model import Config
from atlas.errors import ConfigError
from atlas.rundir.versions import RUN_FORMAT
from atlas.serve import notebook
from atlas.serve.notebook import show


def make_run(folder: Path) -> Path:
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "index.html").write_text(f"<!doctype html><title>{folder.name}</title>")
    (folder / "site" / "atlas.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server outlives its test, and none is found there."""
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setattr(notebook, "_servers", {})
    yield
    for server in notebook._servers.values():
        server.close()


def answer(address: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def attributes(markup: str, tag: str) -> dict[str, str | None]:
    """Those of the only ``tag`` in the markup."""
    matches: list[dict[str, str | None]] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, name: str, values: list[tuple[str, str | None]]) -> None:
            matches.extend([dict(values)] if name == tag else [])

    Reader().feed(markup)
    (only,) = matches
    return only


def test_the_address_has_the_page(run: Path) -> None:
    atlas_frame = atlas.show(run)
    assert atlas_frame.address.startswith("http://127.0.0.1:")
    assert answer(atlas_frame.address) == (200, "<!doctype html><title>demo</title>")
    assert answer(f"{atlas_frame.address}atlas.json") == (200, "{}")
    assert (
        repr(atlas_frame)
        == f"The atlas of {run} is at {atlas_frame.address} until .close() or the end of this process."
    )


def test_an_opened_run_is_shown(run: Path, config: Config) -> None:
    (run / "run.json").write_text(json.dumps({"format": RUN_FORMAT, "config": config.plain()}))
    assert answer(atlas.show(atlas.open_run(run)).address)[1] == "<!doctype html><title>demo</title>"


def test_a_folder_is_served_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run)
    addresses = {show(name).address for name in (run, str(run), "demo", "link")}
    assert len(addresses) == 1
    other = show(make_run(tmp_path / "other"))
    assert other.address not in addresses
    assert answer(other.address)[1] == "<!doctype html><title>other</title>"


def test_the_cell_holds_a_frame_and_the_address(run: Path) -> None:
    atlas_frame = show(run, height=400)
    frame = attributes(atlas_frame._repr_html_(), "iframe")
    assert frame == {
        "src": atlas_frame.address,
        "title": "The activation atlas of demo",
        "width": "100%",
        "height": "400",
        "style": "border: 0",
        "allow": "fullscreen; clipboard-write",
    }
    assert attributes(atlas_frame._repr_html_(), "a") == {"href": atlas_frame.address, "target": "_blank"}
    assert attributes(show(run)._repr_html_(), "iframe")["height"] == "640"


def test_a_notebook_takes_it(run: Path) -> None:
    atlas_frame = show(run)
    formats, _ = DisplayFormatter().format(atlas_frame)
    assert formats == {"text/html": atlas_frame._repr_html_(), "text/plain": repr(atlas_frame)}


def test_names_are_written_safely(tmp_path: Path) -> None:
    atlas_frame = show(make_run(tmp_path / 'a "run" <b>'), proxy='/"><script>/')
    frame = attributes(atlas_frame._repr_html_(), "iframe")
    assert frame["title"] == 'The activation atlas of a "run" <b>'
    assert str(frame["src"]).startswith('/"><script>/')
    assert "<script" not in atlas_frame._repr_html_()


def test_close_ends_the_server(run: Path) -> None:
    atlas_frame, again = show(run), show(run)
    atlas_frame.close()
    with pytest.raises(urllib.error.URLError, match="refused"):
        answer(atlas_frame.address)
    for closed in (atlas_frame, again):
        assert repr(closed) == f"The atlas of {run} is served no more; atlas.show serves it again."
        assert closed._repr_html_() == f"<p>{closed!r}</p>"
        closed.close()
    new = show(run)
    assert answer(new.address)[0] == 200
    assert "iframe" in new._repr_html_()


def test_only_this_machine_is_answered(run: Path) -> None:
    status, sentence = answer(show(run).address, host="hub.example")
    assert status == 403
    assert "asked for as 'hub.example'" in sentence


@pytest.mark.parametrize(
    ("proxy", "start"),
    [
        ("/user/me/proxy/", "/user/me/proxy/"),
        ("/user/me/proxy", "/user/me/proxy/"),
        ("https://hub.example/user/me/proxy/", "https://hub.example/user/me/proxy/"),
    ],
)
def test_a_proxy_has_the_port_under_its_address(run: Path, proxy: str, start: str) -> None:
    atlas_frame = show(run, proxy=proxy)
    port = atlas_frame.address.removeprefix(start).removesuffix("/")
    assert atlas_frame.address == f"{start}{int(port)}/"
    assert attributes(atlas_frame._repr_html_(), "iframe")["src"] == atlas_frame.address
    assert answer(f"http://127.0.0.1:{port}/", host="hub.example")[0] == 200, "it passes on the name that it has"
    assert show(run, proxy=proxy).address == atlas_frame.address
    assert answer(show(run).address, host="hub.example")[0] == 403, "what has no proxy is as strict as before"


def test_a_hub_has_its_own_proxy(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    assert show(run).address.startswith("/user/me/proxy/")
    assert show(run, proxy="/other/").address.startswith("/other/")


@pytest.mark.parametrize("proxy", ["", "proxy/", "hub.example/proxy/", "javascript:alert(1)//"])
def test_what_is_no_address_is_refused(run: Path, proxy: str) -> None:
    with pytest.raises(ConfigError, match="is no address; expected what stands before the port"):
        show(run, proxy=proxy)


def test_a_run_without_a_site_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no run folder"):
        show(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is an address; expected a folder of this machine"):
        show("s3://bucket/demo")
    show(run)
    (run / "site" / "index.html").unlink()
    with pytest.raises(ConfigError, match="has no site yet"):
        show(run)


def test_it_loads_little_and_does_not_keep_the_process_alive(run: Path) -> None:
    program = (
        "import sys, urllib.request, atlas\n"
        "assert 'starlette' not in sys.modules\n"
        f"atlas_frame = atlas.show({str(run)!r})\n"
        "print(urllib.request.urlopen(atlas_frame.address).read().decode())\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'IPython'} & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert process.stdout == "<!doctype html><title>demo</title>\n[]\n"
    assert (process.returncode, process.stderr) == (0, "")


def test_the_page_works_in_the_frame_of_another(browser: Browser, site: Path) -> None:
    atlas_frame = show(site.parent, height=500)
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.set_content(f'<div style="width: 700px">{atlas_frame._repr_html_()}</div>')
        frame = page.frame_locator("iframe")
        expect(frame.get_by_label("Level", exact=True)).to_have_text("10 × 10")
        inside = page.frames[1]
        assert inside.url.startswith(atlas_frame.address)
        assert inside.evaluate("[innerWidth, innerHeight, document.fullscreenEnabled]") == [700, 500, True]
        frame.get_by_label("Zoom in").click()
        eventually(lambda: "zoom=1.5" in inside.evaluate("location.hash"), "the view in the frame's address")
        assert complaints == []
