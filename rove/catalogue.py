"""What can be recommended: items with text."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from rove.errors import InvalidInput
from rove.events import Id, Text, check_id


class Item(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that can be recommended; its texts are what the encoder reads."""

    item_id: Id
    title: Text = ""
    description: Text = ""
    category: Annotated[str, Meta(max_length=256)] = ""
    tags: list[Annotated[str, Meta(max_length=256)]] = []

    @property
    def text(self) -> str:
        """What the encoder reads: the non-empty fields, most telling first."""
        parts = (self.title, self.description, self.category, ", ".join(self.tags))
        return "\n".join(part for part in parts if part)


def check_item(item: Item) -> None:
    """Raise `InvalidInput` unless `item` has a usable id and some text to read."""
    check_id(item.item_id, "item_id")
    if not item.text.strip():
        raise InvalidInput(
            f"item {item.item_id!r} has no text; give it a title or a description",
            field="title",
        )
