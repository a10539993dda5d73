"""How whoever reads a source wants each row written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.sources.definition import MessageKey
from workers.sources.shaping import SALT_SETTING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.formats.columns import Column
    from workers.sources.csv_page import Dialect

_NO_MESSAGE_KEY = MessageKey((), "/sink/key")


@dataclass(frozen=True, slots=True)
class RowWishes:
    """What a sink, a format and a generation ask of the source."""

    message_key: MessageKey = _NO_MESSAGE_KEY
    csv: Dialect | None = None
    """Rows are CSV records; None: JSON."""
    columns: Sequence[Column] = ()
    """Those that the generation was planned with; of CSV these are read and no others."""
    renews: bool = False
    """Who reads begins anew where the columns change and the job goes on."""
    salts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of each credential that a mask names."""
    origin: Mapping[str, object] | None = None
    """What the step says of itself in an envelope; None: rows are bare."""

    def salt_settings(self) -> dict[str, str]:
        """The setting of the session that holds the salt of each credential."""
        return {name: SALT_SETTING.format(number) for number, name in enumerate(sorted(self.salts))}

    def private(self) -> dict[str, str]:
        """The settings of a session that nobody may see, and their values."""
        return {setting: self.salts[name] for name, setting in self.salt_settings().items()}
