"""Commands that math-core does not know and that are short for others it knows."""

from __future__ import annotations

from typing import Final

# Each argument stands at most twice in what it becomes, so that nested commands cannot make much of little.
MACROS: Final = {
    # packages amsmath, amssymb, bm, bbm, cancel, mathtools
    "substack": r"\begin{subarray}{c}#1\end{subarray}",
    "pmb": r"\boldsymbol{#1}", "bold": r"\mathbf{#1}", "mathds": r"\mathbb{#1}", "mathbbm": r"\mathbb{#1}",
    "dotsc": r"\ldots", "dotsb": r"\cdots", "dotsm": r"\cdots", "dotsi": r"\cdots", "dotso": r"\ldots",
    "hdotsfor": r"\ldots", "cancelto": r"\overset{#1}{\cancel{#2}}", "smallint": r"\int",
    "varinjlim": r"\operatorname*{lim\,inj}", "varprojlim": r"\operatorname*{lim\,proj}",
    "injlim": r"\operatorname*{inj\,lim}", "projlim": r"\operatorname*{proj\,lim}",
    "smash": "{#1}", "vcenter": "{#1}", "ensuremath": "{#1}", "mathinner": "{#1}", "mathstrut": "", "strut": "",
    "mathllap": "{#1}", "mathrlap": "{#1}", "mathclap": "{#1}", "llap": "{#1}", "rlap": "{#1}", "clap": "{#1}",
    "sout": r"\cancel{#1}", "bbox": "{#1}", "euro": "€", "dag": r"\dagger", "ddag": r"\ddagger",
    "qed": r"\square", "qedsymbol": r"\square", "bbone": r"\mathbb{1}", "arg": r"\operatorname{arg}",
    "hfill": r"\quad", "allowbreak": "", "nobreak": "", "noindent": "", "displaylimits": "", "nolimits": "",
    "TeX": r"\text{TeX}", "LaTeX": r"\text{LaTeX}",
    # sizes, which a line of a page does not follow
    "Huge": "", "huge": "", "LARGE": "", "Large": "", "large": "", "normalsize": "", "small": "", "footnotesize": "",
    "scriptsize": "", "tiny": "", "mit": "", "sl": "",
    # package physics
    "dd": r"\,\mathrm{d}{#1}", "dv": r"\frac{\mathrm{d}#1}{\mathrm{d}#2}", "pdv": r"\frac{\partial #1}{\partial #2}",
    "abs": r"\left|#1\right|", "norm": r"\left\|#1\right\|", "vb": r"\mathbf{#1}", "vu": r"\hat{\mathbf{#1}}",
    "ev": r"\left\langle #1\right\rangle", "expval": r"\left\langle #1\right\rangle", "eval": r"\left.#1\right|",
    "comm": r"\left[#1,#2\right]", "grad": r"\nabla", "curl": r"\nabla\times", "divergence": r"\nabla\cdot",
    "qq": r"\quad\text{#1}\quad",
    # names of functions and sets that many texts define
    "argmax": r"\operatorname*{arg\,max}", "argmin": r"\operatorname*{arg\,min}", "Tr": r"\operatorname{Tr}",
    "tr": r"\operatorname{tr}", "rank": r"\operatorname{rank}", "diag": r"\operatorname{diag}",
    "sgn": r"\operatorname{sgn}", "sign": r"\operatorname{sign}", "erf": r"\operatorname{erf}",
    "Var": r"\operatorname{Var}", "Cov": r"\operatorname{Cov}", "softmax": r"\operatorname{softmax}",
    "ReLU": r"\operatorname{ReLU}", "lcm": r"\operatorname{lcm}", "Res": r"\operatorname{Res}",
    "R": r"\mathbb{R}", "N": r"\mathbb{N}", "Z": r"\mathbb{Z}", "Q": r"\mathbb{Q}", "Complex": r"\mathbb{C}",
    # units that stand alone
    "ohm": r"\Omega", "celsius": r"{}^{\circ}\mathrm{C}", "degreeCelsius": r"{}^{\circ}\mathrm{C}",
    "percent": r"\%", "micro": r"\mu", "textmu": r"\mu", "textdegree": r"{}^{\circ}", "degree": r"{}^{\circ}",
    "angstrom": r"\text{Å}",
}  # fmt: skip
