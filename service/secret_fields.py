"""Secrets of a definition: taken out before it is stored, put back as `***` when it is answered, kept over an update
only while the endpoint stays the same (native-api.md, Secrets).

A secret field is one whose model says `SecretStr`. Its place is a JSON pointer into the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, SecretStr

from config.redaction import MASK, register
from config.references import is_reference
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Where a secret would be sent to, as whom, and whether in clear: a stored one is not handed to another place.
# `protocol` is part of a Kafka listener's address: the same host and port without TLS is somebody else's ear.
ENDPOINT_FIELDS: Final = frozenset(
    {
        *("kind", "host", "port", "user", "username", "bootstrap_servers", "url", "endpoint_url", "region", "protocol"),
        "datasource",
    }
)


BESIDE_THEM: Final = frozenset({"access_key_id"})
"""What a stored credential may hold beside secrets: no secret itself, but changed together with one."""


OF_SOURCES: Final = frozenset({"salt"})
"""What a stored credential may hold for a source: `source.columns[].mask.credential` names it."""


class SecretRefused(RowferryError):
    """A secret field that can not stand as given. `pointer` says which; answered as 422."""

    def __init__(self, code: str, pointer: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint=hint)
        self.pointer = pointer


def names_in(model: Any) -> set[str]:
    """The names of every secret field in a model, or in a union of models, and what they are made of."""
    found: set[str] = set()
    seen: set[Any] = set()
    pending = [model]
    while pending:
        one = pending.pop()
        if isinstance(one, type) and issubclass(one, BaseModel) and one not in seen:
            seen.add(one)
            for name, field in one.model_fields.items():
                found |= {name} if _holds_secret(field.annotation) else set()
                pending.append(field.annotation)
        pending.extend(get_args(one))
    return found


def pointers_in(data: Any, names: Iterable[str]) -> list[str]:
    """Where in `data` (JSON values, nothing validated) fields of these names stand."""
    wanted = set(names)
    return [pointer for pointer, _ in _walk(data) if pointer.rpartition("/")[2] in wanted]


def split(model: BaseModel) -> tuple[dict[str, Any], dict[str, str]]:
    """A validated definition as JSON without its secret fields, and the secrets by pointer. Registers each secret for
    redaction."""
    secrets: dict[str, str] = {}

    def plain(value: Any, pointer: str) -> Any:
        if isinstance(value, BaseModel):
            fields = {field.alias or name: getattr(value, name) for name, field in type(value).model_fields.items()}
            return {
                name: plain(item, f"{pointer}/{name}")
                for name, item in fields.items()
                if not taken(item, pointer, name)
            }
        return value

    def taken(value: Any, pointer: str, name: str) -> bool:
        if isinstance(value, SecretStr):
            secrets[f"{pointer}/{escaped(name)}"] = value.get_secret_value()
        return isinstance(value, SecretStr)

    without = plain(model, "")
    register(*secrets.values())
    dumped = model.model_dump(mode="json", by_alias=True)
    return _shape(dumped, without), secrets


def mask(spec: Mapping[str, Any], pointers: Sequence[str]) -> dict[str, Any]:
    """The definition as answered: `***` wherever it holds a secret."""
    copy: dict[str, Any] = _copied(spec)
    for pointer in pointers:
        _put(copy, pointer, MASK)
    return copy


def merge(data: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The definition with its secrets in their places again."""
    copy: dict[str, Any] = _copied(data)
    for pointer, value in secrets.items():
        _put(copy, pointer, value)
    return copy


def keep(
    given: Mapping[str, Any],
    names: Iterable[str],
    *,
    stored: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """`given` with the stored secret wherever it says `***`, or says nothing inside an object that it gives; and the
    pointers of what was kept, for `check_kept`. An explicit null removes a secret.

    Raises SecretRefused `secret_required` for `***` without a stored secret, and where what is given changes the
    endpoint.
    """
    stored, secrets = stored or {}, secrets or {}
    merged: dict[str, Any] = _copied(given)
    kept: list[str] = []
    for pointer in dict.fromkeys([*pointers_in(given, names), *secrets]):
        present, value = _get(given, pointer)
        if (present and value != MASK) or (not present and not _get(given, pointer.rpartition("/")[0])[0]):
            continue
        if pointer not in secrets:
            raise SecretRefused(
                "secret_required",
                pointer,
                f"{_field(pointer)} is {MASK!r}, and no secret is stored for it",
                "send the secret itself, or leave the field out",
            )
        if not _same_endpoint(given, stored, pointer, given_only=True):
            raise _endpoint_changed(pointer)
        _put(merged, pointer, secrets[pointer])
        kept.append(pointer)
    return merged, kept


def check_kept(spec: Mapping[str, Any], stored: Mapping[str, Any], kept: Sequence[str]) -> None:
    """The second look at what `keep` kept, with every default in its place: `spec` as validated, `stored` as it was.
    Raises SecretRefused `secret_required`."""
    for pointer in kept:
        if not _same_endpoint(spec, stored, pointer):
            raise _endpoint_changed(pointer)


def refuse_references(secrets: Mapping[str, str]) -> None:
    """A job may not read what belongs to the service's host. Raises SecretRefused `reference_not_allowed`."""
    for pointer, value in secrets.items():
        if is_reference(value):
            raise SecretRefused(
                "reference_not_allowed",
                pointer,
                f"{_field(pointer)} holds a reference (env: or file:); those stand only in datasources and credentials",
                "store a credential with the reference and name it in sink.credential",
            )


def escaped(part: str) -> str:
    """One part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


def _holds_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(part is SecretStr for part in get_args(annotation))


def _field(pointer: str) -> str:
    return pointer[1:].replace("/", ".")


def _endpoint_changed(pointer: str) -> SecretRefused:
    return SecretRefused(
        "secret_required",
        pointer,
        f"{_field(pointer)} must be sent again, because host, port, user or endpoint changed",
        "send the secret itself, or null for none",
    )


def _same_endpoint(
    given: Mapping[str, Any], stored: Mapping[str, Any], pointer: str, *, given_only: bool = False
) -> bool:
    """Compares the endpoint fields of every object on the way to the secret."""
    one: Any = given
    other: Any = stored
    for part in pointer.split("/")[:-1]:
        if part:
            one, other = _part(one, part), _part(other, part)
        mine, theirs = (value if isinstance(value, dict) else {} for value in (one, other))
        for name in ENDPOINT_FIELDS & (mine.keys() if given_only else mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                return False
    return True


def _part(value: Any, part: str) -> Any:
    return value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None


def _walk(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            here = f"{pointer}/{escaped(str(name))}"
            yield here, item
            yield from _walk(item, here)


def _copied(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _shape(dumped: Any, shape: Any) -> Any:
    if isinstance(shape, dict) and isinstance(dumped, dict):
        return {name: _shape(dumped[name], shape[name]) for name in dumped if name in shape}
    return dumped


def _get(data: Any, pointer: str) -> tuple[bool, Any]:
    if not pointer:
        return True, data
    at = data
    parts = pointer.split("/")[1:]
    for part in parts[:-1]:
        at = _part(at, part)
    last = parts[-1].replace("~1", "/").replace("~0", "~")
    if not isinstance(at, dict) or last not in at:
        return False, None
    return True, at[last]


def _put(data: dict[str, Any], pointer: str, value: Any) -> None:
    at = data
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in parents:
        following = at.get(part)
        if not isinstance(following, dict):
            following = at[part] = {}
        at = following
    at[last] = value
