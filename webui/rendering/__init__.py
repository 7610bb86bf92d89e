"""The one place where untrusted text becomes HTML: Markdown, highlighted code and formulae, for chat and review alike.

Covers: the HTML returned holds only the elements, attributes and classes that `cleaner` lists. markdown-it escapes raw
HTML, and nh3 then parses each finished block and drops whatever is not listed; links are http, https or mailto, and
absolute. Images are shown as words. Work is bounded, whatever the text is: by sizes, and by a budget of processor time
for the message, each paragraph and each block of code. What exceeds one is shown as it was written, and says so. What
has been rendered is kept for the next time.
Does not cover: what the words say, and plain text elsewhere, which enters by Jinja's escaping or `textContent`.

    blocks         a whole text; blocks are rendered one by one, so that a growing answer is sent by its tail
    growing        an answer that is still being written
    markdown       how Markdown is read, and the HTML of each block before the cleaner
    formulae       TeX to MathML
    code_colours   colours for blocks of code, as classes; the colours themselves are in css/prose.css
    cleaner        the list of what may be in the HTML
    budget         processor time of one message
    cache          what has been rendered already
"""

from webui.rendering.blocks import MAX_MARKDOWN_CHARS, render_blocks, render_markdown
from webui.rendering.growing import GrowingMarkdown

__all__ = ["MAX_MARKDOWN_CHARS", "GrowingMarkdown", "render_blocks", "render_markdown"]
