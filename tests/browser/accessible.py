"""axe-core on a page as it stands: what it finds against WCAG 2.2 A and AA."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from tests.conftest import require

_AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """async (rules) => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const runOnly = rules.length ? { type: "rule", values: rules } : { type: "tag", values: tags };
  const settings = { runOnly, resultTypes: ["violations"] };
  const { violations } = await axe.run(document, settings);
  const told = (id, node) => `${id}: ${node.html.slice(0, 160)}: ${node.failureSummary}`;
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => told(id, node)));
}"""


@functools.cache
def _source() -> str:
    require(_AXE.exists(), "axe-core (npm ci)")
    return _AXE.read_text()


def faults(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe-core has to say against the page: by these of its rules, or by all of WCAG's."""
    page.wait_for_load_state("load")
    if not page.evaluate("'axe' in window"):
        page.evaluate(_source())
    return [str(fault) for fault in page.evaluate(_RUN, list(rules))]
