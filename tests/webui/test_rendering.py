"""Untrusted text becomes harmless HTML in bounded time; whole or in pieces, it becomes the same HTML."""

from __future__ import annotations

import time
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webui.rendering import MAX_MARKDOWN_CHARS, GrowingMarkdown, render_blocks, render_markdown
from webui.rendering.blocks import blocks_with_lines
from webui.rendering.budget import Budget
from webui.rendering.code_colours import MAX_HIGHLIGHT_CHARS

# Repeated here on purpose: whoever widens the list in the module must widen this one too.
HARMLESS_TAGS = {
    "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "kbd", "li",
    "ol", "p", "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul", "math",
    "merror", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts", "mroot",
    "mrow", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder",
    "munderover",
}  # fmt: skip
HARMLESS_ATTRIBUTES = {
    "class", "href", "title", "rel", "start", "data-language", "aria-label", "checked", "disabled", "type", "accent",
    "accentunder", "display", "displaystyle", "form", "height", "largeop", "linethickness", "lspace", "mathvariant",
    "maxsize", "minsize", "movablelimits", "rspace", "scriptlevel", "stretchy", "symmetric", "voffset", "width",
}  # fmt: skip
TIME_LIMIT_S = 5.0  # on a busy machine; the slowest takes about one


class Inspector(HTMLParser):
    """Collects everything in HTML that a browser could act on."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in HARMLESS_TAGS:
            self.found.append(f"<{tag}>")
        if tag == "input" and not {("type", "checkbox"), ("disabled", "")} <= set(attrs):
            self.found.append(f"<input {attrs}>")
        for name, value in attrs:
            if name not in HARMLESS_ATTRIBUTES:
                self.found.append(f"<{tag} {name}>")
            if name == "href" and urlsplit(value or "").scheme not in ("http", "https", "mailto"):
                self.found.append(f"<{tag} href={value}>")

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.found.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"<?{data}>")


ATTACKS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
    "<math><annotation-xml encoding='text/html'><script>alert(1)</script></annotation-xml></math>",
    "<svg><foreignObject><iframe srcdoc='<script>alert(1)</script>'></foreignObject></svg>",
    "<iframe src=javascript:alert(1)></iframe><object data=x></object><embed src=x><base href=//evil.example/>",
    "<form action=//evil.example><button formaction=javascript:alert(1)>x</button></form>",
    '<a href="javascript:alert(1)">x</a><body onload=alert(1)><meta http-equiv=refresh content=0>',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&#58;alert(1))",
    "[x](java\tscript:alert(1)) [x](&#x6A;avascript:alert(1)) [x](\x01javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1)) [x](file:///etc/passwd) [x](blob:x) [x](//evil.example/x) [x](/sign-out) [x](../admin)",
    '![x](javascript:alert(1)) ![x](http://evil.example/pixel.png) !["onerror=alert(1)](x)',
    "<javascript:alert(1)> <data:text/html,x> [x]: javascript:alert(1)\n\n[x]",
    '[x](http://a.example/"onmouseover="alert(1))',
    '[x](<http://a.example/ onclick=alert(1)> "t\\" onclick=alert(1)")',
    '```"><script>alert(1)</script>\nx\n```',
    "```html onload=alert(1)\n<script>alert(1)</script>\n```",
    '~~~python" onclick="alert(1)\n</code></pre><script>alert(1)</script>\n~~~',
    "`</code><script>alert(1)</script>`",
    "| <script>alert(1)</script> | [x](javascript:alert(1)) |\n|:-:|--:|\n| <img src=x onerror=alert(1)> | y |",
    "$\\href{javascript:alert(1)}{x}$ $\\url{javascript:alert(1)}$",
    '$\\style{color:red}{x}$ $\\class{a" onclick="b}{x}$',
    "$</math><script>alert(1)</script>$ $$\\text{</mtext><img src=x onerror=alert(1)>}$$",
    "\\(<img src=x onerror=alert(1)>\\) \\[\\mathrm{<script>alert(1)</script>}\\]",
    "$\\unicode{x3c}script\\unicode{x3e}$ $\\includegraphics{http://evil.example/x.png}$",
    "$\\color{red;background:url(//e)}x$",
    '$\\htmlClass{a"onclick="b}{x}$ $\\htmlId{a}{x}$ $\\htmlStyle{background:url(//e)}{x}$ $\\htmlData{onclick=b}{x}$',
    "$\\text{<img src=x onerror=alert(1)>}$ $\\operatorname{<script>}$ $\\mathrm{</math><script>alert(1)</script>}$",
    "$\\href{javascript:alert(1)}{\\text{x}}$ $\\href{data:text/html,x}{x}$ $\\url{//evil.example}$",
    "$\\ce{<img src=x onerror=alert(1)>}$ $\\ce{A ->[<script>] B}$ $\\SI{1}{<svg/onload=alert(1)>}$ "
    '$\\num{"><script>}$',
    "$\\unicode{60}script\\unicode{62}$ $\\verb|<script>|$ $\\tag{<script>}$ $\\label{<script>}x$ $\\eqref{<script>}$",
    '$\\begin{array}{c"onclick=b}x\\end{array}$ $\\hspace{1em"onclick="b}$ $\\color{"onclick=b}x$ '
    '$\\textcolor[rgb]{1,0,0"}{x}$',
    '$\\textbf{<b onclick=b>}$ $\\texttt{</mtext><script>alert(1)</script>}$ $\\enclose{a"onclick=b}{x}$',
    "$\\def\\x{<script>}\\x$ $\\newcommand{\\y}{\\href{javascript:alert(1)}{x}}\\y$ $\\require{html}\\style{a}{x}$",
    "- [x] <input onfocus=alert(1) autofocus>\n- [ ] [x](javascript:alert(1))",
    "[^1]: <script>alert(1)</script>\n\n[^1] [^<img src=x onerror=alert(1)>]",
    "<sub onclick=alert(1)>x</sub> <sup><script>alert(1)</script></sup> <kbd><img src=x onerror=alert(1)></kbd>",
    "<br onload=alert(1)><br/onload=alert(1)> | <br onload=b> |",
    "https://a.example/\"onmouseover=alert(1) www.a.example/<script>alert(1)</script> https://a.example/'><svg/onload=b>",
    '![x](http://a.example/"onload="alert(1) "t\\"onload=b") ![x](javascript:alert(1) "<script>")',
    '[x](docs/"onclick="alert(1)) [x](#<script>) [x](<javascript:alert(1)> "t")',
    "> - 1. > ```js\n> <script>alert(1)</script>\n",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62;",
    "<!-- --!><script>alert(1)</script> --> <![CDATA[<script>alert(1)</script>]]> <?xml x?>",
    "\u2028<script>alert(1)</script>\ufeff \x00<script\x00>alert(1)</script>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_leaves_nothing_a_browser_could_run(attack: str) -> None:
    assert Inspector(render_markdown(attack)).found == []


@given(st.text(alphabet=st.sampled_from(list("<>/\"'=`*_[]()!|$\\#-: \nabonimgsrcjpt&;{}^")), max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_text_gives_html_outside_the_list(text: str) -> None:
    assert Inspector(render_markdown(text)).found == []


def test_raw_html_is_shown_as_text() -> None:
    assert render_markdown("<b>bold?</b>") == "<p>&lt;b&gt;bold?&lt;/b&gt;</p>\n"


def test_links_go_out_without_telling_where_from() -> None:
    html = render_markdown("[the RFC](https://www.example.org/rfc9162)")
    assert '<a href="https://www.example.org/rfc9162" rel="noopener noreferrer nofollow">the RFC</a>' in html


def test_an_image_is_words() -> None:
    html = render_markdown("![a cat](http://a.example/cat.png)")
    assert '<span class="image-absent">[image: a cat]</span>' in html
    assert '<a href="http://a.example/cat.png"' in html


def test_alignment_is_a_class_because_the_policy_forbids_styles() -> None:
    html = render_markdown("| a | b |\n|:-:|--:|\n| 1 | 2 |")
    assert '<td class="align-center">1</td>' in html
    assert '<td class="align-right">2</td>' in html


def test_code_is_coloured_by_classes_and_named_by_its_language() -> None:
    html = render_markdown("```py\nreturn 1\n```")
    assert 'data-language="python"' in html
    assert '<span class="k">return</span>' in html


@pytest.mark.parametrize("language", ["", "brainfuck", "python;alert", "<b>"])
def test_code_in_an_unknown_language_is_plain_and_the_language_is_named(language: str) -> None:
    html = render_markdown(f"```{language}\na < b\n```")
    title = f'<p class="code-title">{language.replace("<", "&lt;").replace(">", "&gt;")}</p>' if language else ""
    assert html == f'<div class="code-block" data-language="text">{title}<pre><code>a &lt; b\n</code></pre></div>\n'


def test_code_too_long_to_colour_is_plain() -> None:
    html = render_markdown("```python\n" + "x = 1\n" * (MAX_HIGHLIGHT_CHARS // 6 + 1) + "```")
    assert "<span" not in html


@pytest.mark.parametrize(
    ("source", "display"),
    [("$x^2$", "inline"), ("\\(x^2\\)", "inline"), ("a $$x^2$$ b", "block"), ("$$\nx^2\n$$", "block"),
     ("\\[\nx^2\n\\]", "block"), ("so \\[x^2\\] it is", "block"), ("> - \\[ x^2 \\]", "block")],
)  # fmt: skip
def test_formulae_become_mathml(source: str, display: str) -> None:
    html = render_markdown(source)
    assert f'<math display="{display}">' in html
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html


@pytest.mark.parametrize("source", ["It costs $5 and $6.", "\\(never closed", "\\[never closed", "a \\\\( b \\\\) c"])
def test_what_is_no_formula_stays_text(source: str) -> None:
    assert "<math" not in render_markdown(source)


@pytest.mark.parametrize(
    "source", ["\\frac{1}{", "^", "\\left(", "\\begin{matrix}", "x" + "{" * 60 + "}" * 60, "x+" * 1500]
)
def test_a_formula_that_cannot_be_converted_is_shown_as_written(source: str) -> None:
    html = render_markdown(f"$${source}$$")
    assert source in html
    assert "<math" not in html
    assert Inspector(html).found == []


TEX = st.sampled_from(
    ["x", "2", "{", "}", "^", "_", "\\frac", "\\sqrt", "[", "]", "\\left", "\\right", "(", ")", "|", "&", "\\\\",
     "\\begin{matrix}", "\\end{matrix}", "\\begin{cases}", "\\end{cases}", "\\text{", "\\mathrm{", "\\sum", "\\limits",
     "\\over", "\\binom", "\\genfrac", "\\href{", "\\color{", "\\hspace{", "\\rule{", "'", "\\not", "\\overset{", " "]
)  # fmt: skip


@given(st.lists(TEX, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_no_formula_makes_rendering_fail(pieces: list[str]) -> None:
    assert Inspector(render_markdown("\\(" + "".join(pieces) + "\\)")).found == []


FLOODS = {
    "brackets": "[" * 20_000,
    "image brackets": "![" * 10_000,
    "links": "[a](" * 5_000,
    "emphasis": "*a **a " * 3_000,
    "more emphasis": "a**b" + "c* " * 7_000,
    "backticks": "".join("`" * n + " " for n in range(200)),
    "formula openings": "\\(" * 10_000,
    "block formula openings": "\\[ \n" * 25_000,
    "dollars": "$a " * 6_000,
    "quotes": ">" * 100_000,
    "nested lists": "\n".join("  " * n + "- a" for n in range(300)),
    "nested list markers": "- " * 50_000,
    "entities": "&" * 100_000,
    "one paragraph": "a\n" * 50_000,
    "many paragraphs": "a\n\n" * 33_000,
    "many headings": "# a\n" * 25_000,
    "many formulae": "$x^2$\n\n" * 14_000,
    "long formulae": ("$" + "\\frac{a}{b}" * 150 + "$\n\n") * 50,
    "deep formulae": ("$" + "{" * 39 + "x" + "}" * 39 + "$\n\n") * 500,
    "wide table": "|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n" + ("|x" * 5_000 + "|\n") * 7,
    "references": "[a]: /x\n" * 12_000,
    "code": "```python\n" + "x = (1, 'a')\n" * 3_800 + "```",
    "python brackets": "```python\n" + "(" * 49_000 + "\n```",
    "ruby heredocs": "```ruby\n" + "<<A" * 16_000 + "\n```",
    "perl substitutions": "```perl\n" + "s/" * 24_000 + "\n```",
    "many blocks of code": "```python\nx=1\n```\n\n" * 5_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_rendered_in_bounded_time(name: str) -> None:
    assert len(FLOODS[name]) <= MAX_MARKDOWN_CHARS
    begin_s = time.process_time()
    render_markdown(FLOODS[name])
    assert time.process_time() - begin_s < TIME_LIMIT_S


def test_text_beyond_the_limit_is_shown_as_it_is() -> None:
    blocks = render_blocks("**a** <script>\n" * (MAX_MARKDOWN_CHARS // 15 + 1))
    assert len(blocks) == 1
    assert "**a** &lt;script&gt;" in blocks[0]


PIECES = st.sampled_from(
    ["a", " b", "\n", "\n\n", "# ", "- ", "1. ", "> ", "    ", "```", "```py\n", "```md\n", "`", "**", "|", "|-|", "$",
     "$$", "\\[", "\\]", "\\(", "\\)", "---", "x^2", "\r", "\r\n", "\u2028", "\x0b", "<b>", "[a](https://b.c)", "[^1]",
     "[^1]: ", "- [x] ", "<br>", "<sub>", "</sub>", "##", "[a]: /b", "\\begin{align}", "\\end{align}", "。", "https://a.b"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40))
@example(["$$", "\n", "> ", "\n", "a", "$$"])  # the end of a formula swallows earlier blocks
@example(["\\[", "\n", "> ", "\n", "a", "\\]"])
@example(["\\[", "\n\n", "a", "\n\n", "x^2", "\n\n", "\\]"])
@example(["```md\n", "```py\n", "a\n", "```", "\n", "b\n\n", "c\n\n", "```", "\n\n", "d"])
@example(["- ", "\\[", "\n\n", "a", "\n\n", "b", "\n\n", "  \\]"])
@settings(max_examples=150, deadline=None)
def test_a_growing_answer_always_shows_what_its_text_so_far_would(pieces: list[str]) -> None:
    growing, shown, text = GrowingMarkdown(), list[str](), ""
    for piece in pieces:
        growing.append(piece)
        text += piece
        keep, blocks = growing.update()
        shown[keep:] = blocks
        assert shown == [block for block, _ in blocks_with_lines(text, Budget(60.0), growing=True)]
    keep, blocks = growing.finish()
    shown[keep:] = blocks
    assert shown == render_blocks(text)


def test_a_reference_defined_later_is_resolved_at_the_end() -> None:
    growing, shown = GrowingMarkdown(), list[str]()
    for piece in (
        "see [the RFC]\n\n",
        "more\n\n",
        "and more\n\n",
        "and more\n\n",
        "[the RFC]: https://a.example/rfc\n",
    ):
        growing.append(piece)
        keep, blocks = growing.update()
        shown[keep:] = blocks
    assert "<a" not in shown[0]
    keep, blocks = growing.finish()
    shown[keep:] = blocks
    assert keep == 0
    assert 'href="https://a.example/rfc"' in shown[0]


def test_a_growing_answer_sends_only_its_tail() -> None:
    growing = GrowingMarkdown()
    growing.append("one\n\ntwo\n\nthree")
    assert growing.update() == (0, ["<p>one</p>\n", "<p>two</p>\n", "<p>three</p>\n"])
    growing.append(" more")
    assert growing.update() == (2, ["<p>three more</p>\n"])
    assert growing.finish() == (3, [])
