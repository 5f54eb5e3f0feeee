"""Our own rules: each a function from a file's text to what it finds wrong there.

The docstring of a rule is what the person who broke it reads, so it says why and what to do instead. `bad` holds
examples that it must find, `good` what it must leave alone.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch

Finding = tuple[int, str]
"""The number of a line and what is wrong in it."""


@dataclass(frozen=True)
class Rule:
    """A check, the files that it covers (patterns whose star crosses folders) and the examples that prove it."""

    check: Callable[[str], Iterator[Finding]]
    covers: tuple[str, ...]
    except_in: tuple[str, ...]
    bad: tuple[str, ...] = field(repr=False)
    good: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.check.__name__

    def applies_to(self, path: str) -> bool:
        return _matches(path, self.covers) and not _matches(path, self.except_in)


RULES: list[Rule] = []

PRODUCT = ("src/ewallet/*.py",)
PYTHON = ("*.py",)
DOMAINS = ("src/ewallet/*/domain.py", "src/ewallet/*/domain/*.py")
MAXIMUM_DOMAIN_LINES = 400  # about what one can keep in mind; beyond it `domain.py` becomes a folder

Check = Callable[[str], Iterator[Finding]]


def rule(
    *, covers: tuple[str, ...], bad: tuple[str, ...], good: tuple[str, ...] = (), except_in: tuple[str, ...] = ()
) -> Callable[[Check], Check]:
    """Register a check as a rule."""

    def register(check: Check) -> Check:
        RULES.append(Rule(check, covers, except_in, bad, good))
        return check

    return register


@rule(
    covers=("src/ewallet/kernel/money.py", *DOMAINS),
    bad=("fee = 0.02", "fee = float(amount)", "fee = amount / 50", "amount /= 2", "def fee(rate: float): ..."),
    good=("fee, rest = divmod(amount * 200, 10_000)", "half = amount // 2"),
)
def no_float_near_money(source: str) -> Iterator[Finding]:
    """A float loses cents. Count whole minor units; divide with `//` or `divmod` and name the rounding."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=float(number)):
                yield node.lineno, f"the float {number}"
            case ast.Name(id="float"):
                yield node.lineno, "the type float"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield node.lineno, "a true division"


@rule(
    covers=("src/ewallet/kernel/*.py", *DOMAINS),
    bad=("import msgspec", "from sqlalchemy import select", "from ewallet.plumbing import json", "from . import store"),
    good=("from decimal import Decimal", "import ewallet.kernel.money", "from ewallet.wallet.domain.holds import Hold"),
)
def kernel_and_domain_stand_on_the_standard_library(source: str) -> Iterator[Finding]:
    """Rules are pure: time, ids and randomness come in as arguments, and reading or writing is plumbing's work."""
    for node in ast.walk(ast.parse(source)):
        for module in _imported_modules(node):
            if not _is_pure(module):
                yield node.lineno, f"an import of {module}"  # type: ignore[attr-defined]  # imports have a line


@rule(
    covers=PRODUCT,
    bad=(
        "tx.execute(update(transfers).values(amount=0))",
        "tx.execute(delete(tables.wallet_audit))",
        "tx.execute(self.records.update().values(actor='nobody'))",
        "upsert_rows(tx, store.transfers, rows, update=('amount',))",
        "tx.execute(text('UPDATE wallet_transfers SET amount = 0'))",
        "tx.execute(text(f'delete  from {service}_audit'))",
    ),
    good=(
        "tx.execute(update(self.head).values(sequence=sequence))",
        "insert_rows(tx, store.transfers, rows)",
        "f'CREATE TRIGGER keep BEFORE UPDATE ON wallet_transfers'",
        "text('UPDATE wallet_audit_head SET sequence = 1')",
    ),
)
def ledger_and_audit_only_grow(source: str) -> Iterator[Finding]:
    """Transfers and audit records are for ever. Correct a transfer by another one; an audit record needs none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _changes_rows(node):
            yield node.lineno, f"`{ast.unparse(node)[:80]}`"
        elif isinstance(node, ast.Constant | ast.JoinedStr) and re.search(_CHANGING_SQL, ast.unparse(node)):
            yield node.lineno, "an SQL statement that changes or removes them"


@rule(
    covers=PRODUCT,
    except_in=("src/ewallet/kernel/clock.py",),
    bad=(
        "from datetime import datetime\nnow = datetime.now(UTC)",
        "import datetime as dt\nnow = dt.datetime.utcnow()",
        "today = date.today()",
        "import time\nnow = time.time()",
        "from time import time_ns",
    ),
    good=("now = self._clock()", "started = time.monotonic()", "moment = datetime.fromisoformat(text)"),
)
def one_clock(source: str) -> Iterator[Finding]:
    """Only kernel/clock.py reads the time; everything else is given a `Clock`, so that a test owns the time."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr="now" | "utcnow" | "today") if re.search(r"\bdate(time)?\.\w+$", ast.unparse(node)):
                yield node.lineno, f"`{ast.unparse(node)}`"
            case ast.Attribute(value=ast.Name(id="time"), attr="time" | "time_ns"):
                yield node.lineno, f"`{ast.unparse(node)}`"
            case ast.ImportFrom(module="time", names=names) if {name.name for name in names} & {"time", "time_ns"}:
                yield node.lineno, f"`{ast.unparse(node)}`"


@rule(
    covers=PRODUCT,
    bad=("assert balance >= 0", "def pay():\n    assert amount, 'no amount'"),
    good=("if balance < 0:\n    raise InvariantBroken('negative balance')",),
)
def no_assert_guards_the_product(source: str) -> Iterator[Finding]:
    """`python -O` removes every assert. Return a refusal, or raise InvariantBroken where only a bug can lead."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            yield node.lineno, f"`{ast.unparse(node)[:80]}`"


@rule(
    covers=PRODUCT,
    bad=(
        "password = 'correct horse'",
        "INTERNAL_SECRET: str = 'change-me'",
        "connect(user='root', password='root')",
        "def login(email, password='letmein'): ...",
        "settings.signing_secret = 'x'",
    ),
    good=("password = ''", "password = settings.admin_password", "connect(password=url.password)"),
)
def no_password_in_the_product(source: str) -> Iterator[Finding]:
    """A default secret is everybody's secret. Read it from the settings, or generate it into the data folder."""
    for node in ast.walk(ast.parse(source)):
        for name, value in _assignments(node):
            match value:
                case ast.Constant(value=str(literal)) if literal and re.search(r"(?i)(password|secret)$", name):
                    yield value.lineno, f"a literal for `{name}`"


@rule(
    covers=("*",),
    bad=("-----BEGIN " + "PRIVATE KEY-----", "key = '''-----BEGIN " + "EC PRIVATE KEY-----"),
    good=("-----BEGIN PUBLIC KEY-----",),
)
def no_private_key_in_the_tree(source: str) -> Iterator[Finding]:
    """A key in the tree is known to everybody who ever cloned it. Generate one, in tests too."""
    yield from _lines_matching(source, r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----", "a private key")


@rule(
    covers=("*",),
    bad=(
        "https://py" + "pi.org/simple",
        "files.python" + "hosted.org",
        "--index" + "-url=x",
        "pip install --trusted" + "-host x",
        "PIP_FIND" + "_LINKS=x",
        "cd /ro" + "ot/project",
        "see /ho" + "me/someone/notes",
    ),
    good=("--no-emit-index-url", "/workers/1", "the root of the project", "https://docs.python.org/3/"),
)
def no_address_or_path_of_one_machine(source: str) -> Iterator[Finding]:
    """Where packages come from and where files lie is each machine's own business; the tree works on all of them."""
    registries = r"\bpy[p]i\.(?:org|io)\b|python[h]osted|registry\.npm[j]s|\bcrates[.]io\b|proxy\.golang[.]org"
    options = r"(?<!\w)--(?:(?:extra-)?index-url|find-links|trusted-host)\b|PIP_(?:(?:EXTRA_)?INDEX_URL|FIND[_]LINKS)"
    paths = r"(?<![\w.$}~*-])/(?:root|work|tmp|home/\w+|Users/\w+)/\w"
    yield from _lines_matching(source, registries, "the host of a package registry")
    yield from _lines_matching(source, options, "an option that names an index")
    yield from _lines_matching(source, paths, "a path of one machine")


@rule(
    covers=PYTHON,
    bad=(
        "x = 1  # noqa",
        "x = 1  # noqa: S105",
        "x = 1  # type: ignore",
        "x = 1  # type: ignore[assignment]",
        "# ruff: noqa",
        "# mypy: ignore-errors",
    ),
    good=(
        "x = 1  # noqa: S105  # the name of a token type, not a token",
        "x = 1  # noqa: S105, S106  # test data",
        "x = 1  # type: ignore[assignment]  # our own keys stand beside ASGI's",
        "text = '# noqa'",
    ),
)
def every_exception_to_a_lint_has_its_reason(source: str) -> Iterator[Finding]:
    """Write `# noqa: CODE  # reason` or `# type: ignore[code]  # reason`: nobody dares to remove one without."""
    switch = r"#\s*(noqa|type:\s*ignore|ruff:|mypy:)"
    well_formed = r"# (noqa: [A-Z]+\d+(, [A-Z]+\d+)*|type: ignore\[[\w, -]+\])  # \w"
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        comment = token.string if token.type == tokenize.COMMENT else ""
        if re.match(switch, comment) and not re.match(well_formed, comment):
            yield token.start[0], f"`{comment}`"


@rule(
    covers=("src/ewallet/*/domain.py",),
    bad=("\n" * (MAXIMUM_DOMAIN_LINES + 1),),
    good=("\n" * MAXIMUM_DOMAIN_LINES,),
)
def a_domain_fits_into_one_head(source: str) -> Iterator[Finding]:
    """Rules that outgrow one file become a folder `domain/` with a file for each noun; nothing else changes."""
    if (lines := source.count("\n")) > MAXIMUM_DOMAIN_LINES:
        yield lines, f"{lines} lines, more than {MAXIMUM_DOMAIN_LINES}"


# --- how the rules read a file --------------------------------------------------------------------------------

_GROWING = r"(?:^|[._])(?:transfers|audit|audit_records)$|\.records$"
_CHANGING_SQL = r"(?i)\b(?:UPDATE|DELETE\s+FROM|REPLACE\s+INTO|TRUNCATE(?:\s+TABLE)?)\s+\S*(?:transfers|audit)\b"


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _lines_matching(source: str, pattern: str, what: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), start=1):
        if re.search(pattern, line):
            yield number, what


def _imported_modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=module, level=level):
            return ["." * level + (module or "")]
        case _:
            return []


def _is_pure(module: str) -> bool:
    own = re.fullmatch(r"ewallet\.(?:kernel|\w+\.domain)(?:\.\w+)*", module)
    return own is not None or module.partition(".")[0] in sys.stdlib_module_names


def _changes_rows(call: ast.Call) -> bool:
    """Whether the call is `update(table)`, `table.update()` or alike, on a table that only grows."""
    match call.func:
        case ast.Name(id="update" | "delete" | "upsert_rows"):
            tables = call.args
        case ast.Attribute(value=table, attr="update" | "delete" | "upsert_rows"):
            tables = [table, *call.args]
        case _:
            return False
    return any(re.search(_GROWING, ast.unparse(table)) for table in tables)


def _assignments(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Every name that the node gives a value: by assignment, as a keyword argument, as a parameter's default."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((ast.unparse(target), value) for target in targets)
        case ast.AnnAssign(target=target, value=value):
            yield ast.unparse(target), value
        case ast.keyword(arg=str(name), value=value):
            yield name, value
        case ast.arguments(
            posonlyargs=first, args=args, defaults=defaults, kwonlyargs=named, kw_defaults=named_defaults
        ):
            positional = [*first, *args]
            yield from ((arg.arg, value) for arg, value in zip(positional[::-1], defaults[::-1], strict=False))
            yield from ((arg.arg, value) for arg, value in zip(named, named_defaults, strict=True))
