"""Requests that are not of the page itself, on this machine, are refused."""

from __future__ import annotations

import json
import socket

import pytest

from agents.preferences.labels import Labelling
from agents.preferences.labels.guard import allowed


def scope(path="/", method="GET", **headers):
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "method": method, "headers": encoded}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:80"])
def test_this_machine_is_served_by_all_its_names(host):
    assert allowed(scope(host=host))
    assert allowed(scope(host=host, origin=f"http://{host}"))
    assert allowed(scope("/gradio_api/run/predict", "POST", host=host, origin=f"http://{host}"))


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"host": "evil.example:7860"}, {"host": "127.0.0.1.evil.example"},
     {"host": "localhost@evil.example"}, {"host": "192.168.0.2:7860"}, {"host": ""}, {},
     {"host": "[:::"}, {"host": "localhost", "origin": "http://evil.example"},
     {"host": "localhost", "origin": "null"}],
    ids=str,
)  # fmt: skip
def test_other_names_and_other_pages_are_refused(headers):
    assert not allowed(scope(**headers))
    assert not allowed(scope("/gradio_api/run/predict", "POST", **headers))


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/gradio_api/upload"), ("GET", "/gradio_api/upload_progress"),
     ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/proxy=https://x"),
     ("POST", "/gradio_api/component_server"), ("POST", "/login"), ("DELETE", "/"),
     ("POST", "/gradio_api/stream/1"), ("GET", "/monitoring"), ("POST", "/gradio_api/vibe-code")],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(method, path):
    assert not allowed(scope(path, method, host="localhost:7860"))


def test_the_page_works_and_is_guarded(path, pairs):
    pytest.importorskip("gradio", reason="gradio is not installed")
    import httpx

    from agents.preferences.labels.page import serving

    labelling = Labelling.create(path, pairs, {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(labelling, port) as address, httpx.Client(base_url=address) as client:
        assert client.get("/").status_code == 200
        config = client.get("/config").json()
        (load,) = [each["id"] for each in config["dependencies"] if ["load"] in [
            list(target[1:]) for target in each["targets"]
        ]]  # fmt: skip
        asked = {"data": ["ada"], "fn_index": load, "session_hash": "x"}
        answer = client.post("/gradio_api/run/predict", json=asked)
        assert answer.status_code == 200 and "prompt " in json.dumps(answer.json())
        evil = {"host": f"evil.example:{port}"}
        for refused in (
            client.get("/", headers=evil),
            client.get("/config", headers=evil),
            client.post("/gradio_api/run/predict", json=asked, headers=evil),
            client.post("/gradio_api/run/predict", json=asked, headers={"origin": "http://x.y"}),
            client.post("/gradio_api/upload", files={"files": b"mine"}),
        ):
            assert refused.status_code == 403 and "prompt " not in refused.text


@pytest.mark.parametrize("name", ["labels.answers.jsonl", ".labels.lock"])
def test_nothing_follows_a_link(name, path, pairs, tmp_path):
    (tmp_path / "mine").write_text("")
    (path.parent / name).symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        Labelling.create(path, pairs, {})
    assert (tmp_path / "mine").read_text() == ""
