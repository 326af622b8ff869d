"""LaTeX as plain text: `plain` reads the part of LaTeX that the table of operations is written in.

Letters and signs become Unicode, words lose their markup, `e^{...}` becomes `exp(...)`, a fraction a quotient, and an
exponent raised figures where there are any. Subscripts stay as they are written: `x_t`, `x_{t-1}`.
"""

import re

SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "ell": "ℓ",
    "sum": "Σ", "prod": "Π", "int": "∫", "odot": "⊙", "otimes": "⊗", "oplus": "⊕", "times": "×", "cdot": "·",
    "circ": "∘", "ast": "∗", "star": "⋆", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠",
    "neq": "≠", "lt": "<", "gt": ">", "ll": "≪", "gg": "≫", "approx": "≈", "equiv": "≡", "propto": "∝", "in": "∈",
    "notin": "∉", "subset": "⊂", "cup": "∪", "cap": "∩", "bigcup": "∪", "emptyset": "∅", "setminus": "∖",
    "land": "∧", "lor": "∨", "wedge": "∧", "vee": "∨", "neg": "¬", "mid": "|", "vert": "|", "lvert": "|",
    "rvert": "|", "Vert": "‖", "lVert": "‖", "rVert": "‖", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊",
    "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "to": "→", "mapsto": "↦", "leftarrow": "←", "rightarrow": "→",
    "infty": "∞", "partial": "∂", "nabla": "∇", "top": "ᵀ", "dots": "…", "ldots": "…", "cdots": "⋯", "dagger": "†",
    "colon": ":", "prime": "′", "bmod": "mod",
}  # fmt: skip
"""What a command without arguments becomes."""

WORDS = frozenset(
    ("log", "exp", "max", "min", "sin", "cos", "tanh", "det", "diag", "arg", "argmax", "sup", "inf", "lim")
)
"""Commands that print as their own names."""
SPACES = {
    **dict.fromkeys((",", ";", ":", " "), " "),
    **dict.fromkeys(("quad", "qquad"), "  "),
    **dict.fromkeys(("!", "left", "right", "big", "bigl", "bigr", "Big", "Bigl", "Bigr", "limits", "displaystyle"), ""),
}
MARKUP = frozenset(
    ("mathrm", "mathbf", "mathcal", "mathbb", "mathsf", "boldsymbol", "text", "operatorname", "bar", "hat", "tilde")
)
"""Commands whose one argument stays."""
QUOTIENTS = frozenset(("frac", "tfrac", "dfrac"))
ESCAPED = frozenset("{}|_%&#$")

COMMANDS = frozenset((*SIGNS, *WORDS, *SPACES, *MARKUP, *QUOTIENTS, *ESCAPED, "sqrt"))
"""Every command that an equation may use, without its backslash."""

_RAISED = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_RAISABLE = re.compile(r"[+-]?\d+|n")
_OPENING = frozenset((r"\langle", r"\lVert", r"\lvert", r"\lfloor", r"\lceil"))
_CLOSING = frozenset((r"\rangle", r"\rVert", r"\rvert", r"\rfloor", r"\rceil"))
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)


def plain(latex: str) -> str:
    """The equation on one line of Unicode text. A command not in `COMMANDS` prints as its name."""
    tokens = _TOKEN.findall(latex)
    text = _sequence(tokens[::-1])
    return re.sub(r" +", " ", text).replace("( ", "(").replace(" )", ")").strip()


def _sequence(rest: list[str]) -> str:
    """The text up to the brace that closes this group; `rest` is a stack whose top is the next token."""
    parts: list[str] = []
    while rest:
        token = rest.pop()
        if token == "}":
            break
        if token in _CLOSING:
            parts = ["".join(parts).rstrip()]
        if token == "^":
            base = parts[-1] if parts else ""
            raised = _argument(rest)
            if base == "e" and not _ends_in_letter(parts[:-1]):
                parts[-1] = f"exp({raised})"
            else:
                parts.append(_superscript(raised))
        elif token == "_":
            lowered = _argument(rest)
            parts.append(f"_{lowered}" if lowered.isalnum() else f"_{{{lowered}}}")
        else:
            parts.append(_atom(token, rest))
    return "".join(parts)


def _ends_in_letter(parts: list[str]) -> bool:
    return bool(parts) and parts[-1][-1:].isalpha()


def _atom(token: str, rest: list[str]) -> str:
    if token == "{":
        return _sequence(rest)
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name in SPACES:
        return SPACES[name]
    if name in MARKUP:
        return _argument(rest)
    if name in QUOTIENTS:
        above, below = _argument(rest), _argument(rest)
        return f"{_bracketed(above)}/{_bracketed(below)}"
    if name == "sqrt":
        return f"√{_bracketed(_argument(rest))}"
    if token in _OPENING:
        while rest and rest[-1] == " ":
            rest.pop()
    return SIGNS.get(name, name)


def _argument(rest: list[str]) -> str:
    while rest and rest[-1] == " ":
        rest.pop()
    return _atom(rest.pop(), rest).strip() if rest else ""


def _superscript(text: str) -> str:
    text = text.replace("× ", "×")
    if text in ("ᵀ", "′", "†"):
        return text
    return text.translate(_RAISED) if _RAISABLE.fullmatch(text) else f"^{text}" if len(text) == 1 else f"^{{{text}}}"


def _bracketed(text: str) -> str:
    return text if len(text) == 1 or text.isalnum() else f"({text})"
