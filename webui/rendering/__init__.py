"""The one place where untrusted text becomes HTML: Markdown, highlighted code and formulae, for chat and review alike.

Covers: the HTML has only the elements, attributes and classes that `cleaner` lists. markdown-it escapes raw HTML, and
nh3 then parses each finished block and drops whatever is not listed. Links are absolute: http, https or mailto. Images
become their descriptions and addresses; diagrams and SVG are code. Every word that was written is shown or stands in a
link (tests/webui/test_nothing_is_lost.py lists the exceptions). Work is bounded for every text: by sizes, and by a
budget of processor time for the message, each paragraph and each block of code. Text that exceeds one is shown as it
was written, with a sentence that says so. Rendered HTML is kept for the next time.
Does not cover: what the words say, and plain text elsewhere, which enters by Jinja's escaping or `textContent`.

    blocks         a whole text, rendered block by block, so that only the tail of a growing answer is sent again
    questions      what a person typed
    growing        an answer that is still being written
    markdown       how Markdown is read, and the HTML of each block before the cleaner
    emphasis, fences, tables, inline_marks, links, blocks_kept
                   where models mean something else than CommonMark reads
    formulae       where formulae are
    tex            TeX to MathML
    code_colours   colours for blocks of code, as classes; the colours themselves are in css/prose.css
    cleaner        the list of what may be in the HTML
    budget         processor time of one message
    cache          what has been rendered already
"""

from webui.rendering.blocks import MAX_MARKDOWN_CHARS, render_blocks, render_markdown
from webui.rendering.growing import GrowingMarkdown
from webui.rendering.questions import render_question

__all__ = ["MAX_MARKDOWN_CHARS", "GrowingMarkdown", "render_blocks", "render_markdown", "render_question"]
