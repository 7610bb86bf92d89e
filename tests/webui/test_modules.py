"""The pages' own modules: types and behaviour; nothing on a page is inline or comes from another site."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "webui" / "static"
TEMPLATES = sorted((ROOT / "webui" / "templates").glob("*.html"))


@pytest.fixture(scope="session")
def node() -> str:
    path = shutil.which("node")
    require(path is not None, "node")
    assert path is not None
    return path


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_type_is_right_by_the_type_checker(node: str) -> None:
    checker = ROOT / "node_modules" / ".bin" / "tsc"
    require(checker.exists(), "the TypeScript compiler (npm ci)")
    run(node, str(checker), "--project", "tsconfig.json")


@pytest.mark.parametrize("name", ["stream", "state", "waiting", "spoken"])
def test_a_pure_module_behaves_as_its_own_tests_say(node: str, name: str) -> None:
    run(node, "--test", f"tests/webui/js/{name}.test.js")


@pytest.mark.parametrize("path", sorted(STATIC.glob("js/*.js")), ids=lambda path: path.name)
def test_every_module_is_type_checked(path: Path) -> None:
    assert path.read_text().startswith("// @ts-check\n")


def test_only_one_module_asks_the_server() -> None:
    asking = [path.name for path in STATIC.glob("js/*.js") if "fetch(" in path.read_text()]
    assert asking == ["net.js"]


def test_html_enters_the_page_in_one_place() -> None:
    pattern = re.compile(r"\.(innerHTML|outerHTML)\s*=|insertAdjacentHTML|document\.write|setHTMLUnsafe|DOMParser")
    assert [path.name for path in STATIC.glob("js/*.js") if pattern.search(path.read_text())] == ["dom.js"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_anything_inline_or_marks_text_as_safe(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|\bdata:|<style", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert "|safe" not in text.replace(" ", "")
    assert "autoescape false" not in text


def test_nothing_that_is_served_names_another_host() -> None:
    served = [*TEMPLATES, *STATIC.rglob("*.css"), *STATIC.rglob("*.js"), *STATIC.rglob("*.svg")]
    named = {
        (path.name, address)
        for path in served
        for address in re.findall(r"https?://[^\s\"')]+", path.read_text())
        if address != "http://www.w3.org/2000/svg"  # the name of SVG, never fetched
    }
    assert named == set()


def test_every_icon_that_is_used_is_drawn() -> None:
    drawn = set(re.findall(r'<symbol id="([^"]+)"', (STATIC / "icons.svg").read_text()))
    used = {name for path in TEMPLATES for name in re.findall(r'icon\("([^"]+)"', path.read_text())}
    used |= {"shield-check", "shield-clock", "shield-broken", "chat", "review", "admin"}  # chosen by a variable
    assert used == drawn


def test_the_lockfile_names_no_host_and_the_manifest_only_what_tests_run() -> None:
    manifest = json.loads((ROOT / "package.json").read_text())
    assert "dependencies" not in manifest
    clients = {"ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod"}
    assert {*manifest["devDependencies"]} == {"typescript", "axe-core"} | clients
    assert "resolved" not in (ROOT / "package-lock.json").read_text()
