"""Checks data from outside, as JSON or TOML gave it, against declared types, and says in our words what is wrong first.

A record is a frozen dataclass. Its annotations say what each field may hold and how anything else is refused:

    @dataclass(frozen=True)
    class Listen:
        host: Annotated[str, Rule(_address)]
        port: Annotated[int, Must("must be a whole number from 0 to 65535", ge=0, le=65535)] = 8080

    check(Listen, {"host": "::1", "port": "80"})   # FaultError: port must be a whole number from 0 to 65535

pydantic compares the data with the types. This module imports it at the first check: settings are read by processes
that load nothing heavy before they have given up every way out. None of pydantic's own texts leaves this module. What a
rule checks can also be said as JSON Schema beside it; `webui.api.schemas` alone reads that, with pydantic's help.
`installer.formats.plain` reads the files of a release by the same declarations without pydantic.

Guaranteed for every type: scalars are strict (``"1"`` and ``true`` are not 1; a whole number is taken where a float is
declared), floats are finite, a list is checked up to its first fault only. Fields that a record does not declare are
ignored. Left to the caller: parsing JSON or TOML, and how a fault becomes a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, get_args, get_type_hints

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import ErrorDetails, SchemaValidator
    from pydantic_core.core_schema import CoreSchema

T = TypeVar("T")
Place = tuple[Union[str, int], ...]

REFUSED: Final = "refused"  # in the metadata of a `Choose`: the options that take nothing
_OURS: Final = "worded"  # the type of an error whose message is ours
_BRANCH: Final = "\0"  # begins the name of a branch in an error's place; no field has such a name
_STRICT: Final[Mapping[str, Mapping[str, bool]]] = {  # what each kind of schema gets beside what pydantic gives it
    "int": {"strict": True},
    "str": {"strict": True},
    "bool": {"strict": True},
    "float": {"strict": True, "allow_inf_nan": False},
    "list": {"fail_fast": True},
    "tuple": {"fail_fast": True},
}
_WORDS: Final[Mapping[str, tuple[str, str]]] = {  # pydantic's type of an error: kind of the fault, what is said
    "missing": ("missing", "is missing"),
    "unexpected_keyword_argument": ("unknown", "is unknown"),
    "int_type": ("type", "must be a whole number"),
    "float_type": ("type", "must be a number"),
    "finite_number": ("value", "must be a finite number"),
    "string_type": ("type", "must be a string"),
    "bool_type": ("type", "must be true or false"),
    "tuple_type": ("type", "must be a list"),
    "list_type": ("type", "must be a list"),
    "dict_type": ("type", "must be an object"),
    "dataclass_type": ("type", "must be an object"),
    "string_unicode": ("value", "has a key that is not Unicode text"),
    "too_long": ("value", "must have at most {max_length} entries"),
    "too_short": ("value", "must have at least {min_length} entries"),
}


class FaultError(ValueError):
    """What is wrong first. A rule raises it, too, with the place below what the rule was given."""

    def __init__(self, said: str, *, kind: str = "value", at: Place = (), value: object = ...) -> None:
        """
        Args:
            said: the end of a sentence that begins with the field's name.
            kind: "missing", "unknown", "type", "value", or a word that a rule and its caller agree on.
            at: names of fields and positions in lists, from the outermost on.
            value: what stands there; ``...`` where a rule does not say.
        """
        super().__init__(said)
        self.said = said
        self.kind = kind
        self.at = at
        self.value = value

    @property
    def where(self) -> str:
        """The place as people read it: ``entries[0].kind``; empty for the whole."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.at)
        return "".join(parts).removeprefix(".")


class Must:
    """In an annotation: the words for everything that the type refuses, and further limits as pydantic names them.

    ``takes`` is the type that is checked, where an annotation of it stands in for the field's own.
    """

    def __init__(self, said: str, *, takes: Any = None, **limits: float | str) -> None:
        self.said = said
        self.takes, self.limits = takes, limits

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _worded(_with(_before(self.takes, source, handler), self.limits), self.said)


class Length:
    """In the annotation of a list or tuple: how many entries it has."""

    def __init__(self, *, least: int = 0, most: int | None = None) -> None:
        self.least, self.most = least, most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        most = {} if self.most is None else {"max_length": self.most}
        return _with(handler(source), {"min_length": self.least, **most})


class Rule:
    """In an annotation: a function that gets the checked value and returns what the field holds.

    It raises `FaultError`, or, with ``said``, any ValueError. ``takes`` is the type before, where that differs.
    ``schema`` says in JSON Schema what the function refuses, as far as that language can.
    """

    def __init__(
        self,
        function: Callable[[Any], object],
        said: str | None = None,
        *,
        takes: Any = None,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self.function, self.said, self.takes = function, said, takes
        self.schema = dict(schema or {})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        before = _before(self.takes, source, handler)
        schema = core_schema.no_info_after_validator_function(
            self.function, before, metadata={"pydantic_js_updates": self.schema}
        )
        return schema if self.said is None else _worded(schema, self.said)


class Choose:
    """In an annotation: the value is of one of several types; ``pick`` tells by the value which.

    The options named in ``refused`` take nothing: they only have the words for what is refused.
    """

    def __init__(self, pick: Callable[[Any], str], options: Mapping[str, Any], *, refused: Sequence[str] = ()) -> None:
        self.pick, self.options, self.refused = pick, options, refused

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        pick, branches = self.pick, {name: _BRANCH + name for name in self.options}
        schemas = {branches[name]: handler.generate_schema(kind) for name, kind in self.options.items()}
        metadata = {REFUSED: [branches[name] for name in self.refused]}
        return core_schema.tagged_union_schema(schemas, lambda value: branches[pick(value)], metadata=metadata)


def closed(kind: type[T]) -> type[T]:
    """Decorates a record: a field that it does not declare is a fault."""
    kind.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return kind


def words_of(kind: type, field: str) -> str:
    """What ``Must`` says of a field, for messages on a missing one; empty where there is none."""
    parts = get_args(get_type_hints(kind, include_extras=True)[field])
    return next((part.said for part in parts if isinstance(part, Must)), "")


def check(kind: type[T], value: object) -> T:
    """``value`` as the declared type.

    Raises:
        FaultError: it is not of that type.
    """
    from pydantic_core import ValidationError

    try:
        checked: T = _validator(kind).validate_python(value)  # type: ignore[arg-type]  # types are hashable
    except ValidationError as exc:
        fault = _first_fault(exc.errors(include_url=False), value)
    else:
        return checked
    raise fault  # here, so that no traceback shows pydantic's error: that one quotes the value, which may be a prompt


def prepare(*kinds: Any) -> None:
    """Make what `check` needs for these types now, so that the first person need not wait for it."""
    for kind in kinds:
        _validator(kind)


@cache
def _validator(kind: Any) -> SchemaValidator:
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    return SchemaValidator(_strict(TypeAdapter(kind).core_schema))


def _strict(schema: Any) -> Any:
    """The schema with ``_STRICT`` throughout; pydantic's own strict mode would refuse an object for a dataclass."""
    if isinstance(schema, (list, tuple)):
        return type(schema)(_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return schema
    inner = {key: part if key == "metadata" else _strict(part) for key, part in schema.items()}
    name = inner.get("type")
    return {**inner, **_STRICT.get(name, {})} if isinstance(name, str) else inner


def _before(takes: Any, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    return handler(source) if takes is None else handler.generate_schema(takes)


def _with(schema: Any, limits: Mapping[str, float | str]) -> CoreSchema:
    """The schema with these limits, or, where it also takes null, what it takes besides with these limits."""
    if schema["type"] == "nullable":
        return {**schema, "schema": _with(schema["schema"], limits)}
    return {**schema, **limits}


def _worded(schema: CoreSchema, said: str) -> CoreSchema:
    from pydantic_core import core_schema

    return core_schema.custom_error_schema(schema, _OURS, custom_error_message=said)


def _first_fault(errors: list[ErrorDetails], value: object) -> FaultError:
    """The fault that stands first in the data; missing fields come after those that are there."""
    order = {name: number for number, name in enumerate(value)} if isinstance(value, dict) else {}
    return _fault(min(errors, key=lambda error: order.get(next(iter(error["loc"]), None), len(order))))


def _fault(error: ErrorDetails) -> FaultError:
    at = tuple(part for part in error["loc"] if not (isinstance(part, str) and part.startswith(_BRANCH)))
    name, value, context = error["type"], error["input"], error.get("ctx", {})
    if name == _OURS:
        return FaultError(error["msg"], kind="type", at=at, value=value)
    if name == "value_error":
        raised = context["error"]
        if not isinstance(raised, FaultError):
            raise RuntimeError("internal error: a rule without words") from raised
        return FaultError(raised.said, kind=raised.kind, at=at + raised.at, value=value)
    if name == "float_type" and type(value) is int:
        return FaultError("must be a number that a float can hold", at=at, value=value)
    kind, said = _WORDS.get(name, ("value", "cannot be taken"))
    return FaultError(said.format_map(context), kind=kind, at=at, value=value)
