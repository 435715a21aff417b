"""The front page is short, its links lead somewhere, and the reference can be made."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "examples/README.md", "examples/recipes.md",
         "examples/clients.md", "tests/benchmarks/results/README.md"]  # fmt: skip


def anchors(page: Path) -> set[str]:
    """The links to the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert path.startswith("http") or target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    for name in re.findall(
        r"`((?:tests|agents|textenv|examples)/[\w/.-]+)`", (ROOT / page).read_text()
    ):
        assert (ROOT / name).exists(), name


def test_the_front_page_is_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.skipif(importlib.util.find_spec("pdoc") is None, reason="pdoc is missing")
def test_the_reference_can_be_made(tmp_path):
    command = [sys.executable, "-m", "pdoc", "agents.algorithms", "textenv.kl", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "agents" / "algorithms.html").read_text()
    assert "bounds the loss of a bad action" in page
