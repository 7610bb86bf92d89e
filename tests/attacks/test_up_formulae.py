"""No formula stops or ends a web worker: math-core is native code that recurses and that no budget can interrupt.

A short text repeated up to the limit of a formula is converted in a process of its own, in a thread with a fraction of
a web worker's stack. A crash or a formula that takes long ends that process and not the tests.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from webui.rendering.tex.mathml import MAX_FORMULA_CHARS, MAX_MATHML_CHARS, mathml_of

STACK_BYTES = 1 << 20  # glibc gives threads 2 MiB at least, and 8 MiB as a rule
FORMULA_S = 0.5  # processor time for one formula; the slowest takes about 0.02 s
UNITS = [
    "\\sqrt ", "\\frac ", "\\hat ", "x^", "x_", "{", "{x", "\\left(", "\\left.", "\\begin{matrix}",
    "\\begin{cases}", "'",
    "\\text{", "\\text{$", "\\text{\\ce{", "x'", "^", "_", "&", "\\\\", "a", "a&", "\\overset ", "\\mathbf ",
    "\\mathrm{", "[",
    "(", "\\{", "\\langle ", "\\lvert ", "|", "\\bigl(", "\\middle|", "\\not", "\\mathop", "\\big", "\\color{red}",
    "{\\rm ",
    "\\displaystyle ", "\\cancel ", "\\boxed ", "\\substack{", "\\sum\\limits", "\\lim_", "\\int_", "\\sum^",
    "\\bm ", "\\vec ",
    "\\operatorname{", "\\tag{", "\\tag{1}", "\\label{", "\\hspace{", "\\xrightarrow ", "\\xrightarrow[",
    "\\phantom ", "]",
    "\\begin{array}{", "\\hline", "\\right)", "}", ")", "\\unknown", "\\", "%", "\\binom", "\\pmod", "\\over ",
    "{a\\over ",
    "\\genfrac", "\\limits", "}\\limits", "\\mathop{x}\\limits", "$", "\\overbrace ", "\\frac{1}{", "\\sqrt[",
    "\\ce{", "\\ce{->[",
    "\\ce{A->[x]", "\\ce{^", "\\ce{2H2", "\\SI{", "\\SI{1}{", "\\si{\\per\\metre", "\\num{1e", "\\num{1 ",
    "\\pu{1 ", "\\ang{1;",
    "\\cancelto", "\\dv{x}", "\\eval ", "\\abs{", "\\norm ", "\\pmatrix{", "\\href{", "\\verb|", "\\enclose{",
    "\\unicode{9",
    "\\begin{aligned}a&=", "\\begin{split}", "\\fbox{", "é", "中", "\u2028", "\x00", "√", " ", "\n", "~", "#",
    "\\bbox[",
]  # fmt: skip
PROGRAM = """
import sys, threading, time
from webui.rendering.tex.mathml import mathml_of

def convert():
    for line in sys.stdin.read().split("\\x01"):
        begin_s = time.thread_time()
        mathml_of(line, display=True)
        if time.thread_time() - begin_s > float(sys.argv[2]):
            print(repr(line[:40]), flush=True)
    print("done", flush=True)

threading.stack_size(int(sys.argv[1]))
thread = threading.Thread(target=convert)
thread.start()
thread.join()
"""


def test_no_repeated_piece_overflows_the_stack_or_takes_long() -> None:
    formulae = [(unit * MAX_FORMULA_CHARS)[: MAX_FORMULA_CHARS - 1] + end for unit in UNITS for end in ("", "x")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(STACK_BYTES), str(FORMULA_S)],
        input="\x01".join(formulae), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-500:]


BOMBS = [
    "\\newcommand{\\a}[1]{#1#1#1#1#1#1#1#1#1}" + "\\a{" * 4 + "x" * 1000 + "}" * 4,
    "\\def\\a{\\a\\a}\\a",
    "\\newcommand{\\a}{" + "x" * 1000 + "}" + "\\a" * 300,
    "\\gdef\\a#1{#1#1}" + "\\a{" * 20 + "x" + "}" * 20,
    "\\let\\a\\frac \\DeclareMathOperator{\\b}{c}",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_formula_defines_no_commands(bomb: str) -> None:
    assert mathml_of(bomb, display=True) is None


@pytest.mark.parametrize("command", ["\\dv", "\\cancelto", "\\abs", "\\substack", "\\comm", "\\pdv", "\\qq"])
def test_commands_that_are_short_for_others_do_not_multiply(command: str) -> None:
    nested = f"{command}{{" * 30 + "x" * 100 + "}{y}" * 30
    assert len(mathml_of(nested, display=True) or "") <= MAX_MATHML_CHARS
    many = f"{command}{{x}}{{y}}" * 120
    assert len(mathml_of(many[:MAX_FORMULA_CHARS], display=True) or "") <= MAX_MATHML_CHARS
