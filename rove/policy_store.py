"""The policies that were put, in the catalogue's store: every process follows them there.

    put        a new version of a policy's settings, with its mode and share
    promote    a policy becomes the default, online
    roll_back  take back the latest of these changes of a policy

- The policy that the configuration describes is there from the beginning, under its name; what was
  put under this name stands above the configuration.
- A policy's versions are numbered; a number means the same settings for ever.
- A change that would leave nobody to decide, or shares above 1, is refused and changes nothing.
- The latest `MOST_CHANGES` changes of a policy can be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b

import msgspec
from msgspec import Struct, structs

from rove.config import Config, PolicyFile, PolicySection
from rove.errors import Conflict, InvalidInput, shown
from rove.ledger.items import ItemStore
from rove.records import Agreement, PolicyState
from rove.traffic import BASELINE, Mode, Policy, Traffic

MOST_CHANGES = 100
CONFIGURED = 0
"""Number of the version that the configuration describes."""
_KEY = "policies"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class State(Struct, frozen=True, kw_only=True):
    """What a policy was changed to."""

    version: int
    mode: Mode
    share: float
    changed_at: float
    replaced: str | None = None
    """The default before, if this change made the policy the default."""


class Known(Struct, frozen=True, kw_only=True):
    """All versions of one policy that its changes name, and the changes, latest last."""

    versions: dict[int, msgspec.Raw]
    changes: list[State]
    num_versions: int


class Document(Struct, frozen=True, kw_only=True):
    """Everything that was put."""

    default: str | None = None
    policies: dict[str, Known] = {}


_read = msgspec.json.Decoder(Document).decode
_encode = msgspec.json.Encoder().encode


class PolicyStore:
    """The policies of one service; `traffic` as of the latest `follow` or change."""

    traffic: Traffic
    document: Document

    def __init__(self, config: Config, store: ItemStore) -> None:
        self._config = config
        self._store = store
        self._text: str | None = ""
        self.follow()

    def follow(self) -> bool:
        """Take in what was changed, by whomever; say whether anything was."""
        text = self._store.state(_KEY)
        if text == self._text:
            return False
        document = _document(text)
        self.traffic, self.document, self._text = self._resolved(document), document, text
        return True

    def states(
        self, agreement: Callable[[Policy], Agreement | None] = lambda policy: None
    ) -> list[PolicyState]:
        """Return all policies, the default first."""
        traffic = self.traffic
        names = sorted(traffic.policies, key=lambda name: (name != traffic.default.name, name))
        return [self._state(traffic.policies[name], agreement) for name in names]

    def _state(
        self, policy: Policy, agreement: Callable[[Policy], Agreement | None]
    ) -> PolicyState:
        known = self.document.policies.get(policy.name)
        changes = known.changes if known is not None else []
        is_default = policy is self.traffic.default
        return PolicyState(
            name=policy.name,
            version=policy.version,
            policy=policy.section.model_dump(mode="json"),
            mode=policy.mode,
            share=self.traffic.share_of(policy.name),
            default=is_default,
            changed_at=changes[-1].changed_at if changes else None,
            num_changes=len(changes) if policy.name == self._config.name else len(changes) - 1,
            agreement=agreement(policy),
        )

    def put(self, name: str, file: PolicyFile, now_s: float) -> None:
        """Store a policy's new version."""
        _check_name(name)
        if file.policy.kind == "regulated":
            raise InvalidInput(
                "a regulated policy finds its strength by all decisions, so only the "
                "configuration's policy can be one; give kind thompson and a strength",
                field="policy.kind",
            )

        def change(document: Document) -> Document:
            if file.share is not None and name == (document.default or self._config.name):
                raise InvalidInput(
                    f"policy {name} is the default, which has the users that the others' shares "
                    "leave; leave share out",
                    field="share",
                )
            known = document.policies.get(name) or Known(versions={}, changes=[], num_versions=0)
            version = known.num_versions + 1
            settings = msgspec.Raw(file.policy.model_dump_json().encode())
            state = State(version=version, mode=file.mode, share=file.users, changed_at=now_s)
            known = structs.replace(
                known, versions={**known.versions, version: settings}, num_versions=version
            )
            return _with(document, name, known, [*known.changes, state])

        self._change(change)

    def promote(self, name: str, now_s: float) -> None:
        """Make a policy the default, online; one that is stays as it is."""

        def change(document: Document) -> Document:
            before = document.default or self._config.name
            policy = self._resolved(document).find(name)
            if name == before and policy.mode == "online":
                return document
            known = document.policies.get(name) or Known(versions={}, changes=[], num_versions=0)
            state = State(
                version=known.changes[-1].version if known.changes else CONFIGURED,
                mode="online",
                share=0.0,
                changed_at=now_s,
                replaced=None if name == before else before,
            )
            document = structs.replace(document, default=name)
            return _with(document, name, known, [*known.changes, state])

        self._change(change)

    def roll_back(self, name: str) -> None:
        """Take back the latest change of a policy."""

        def change(document: Document) -> Document:
            self._resolved(document).find(name)
            known = document.policies.get(name)
            if known is None or not known.changes[:-1] and name != self._config.name:
                raise Conflict(f"policy {name} has no earlier change to go back to; put another")
            if not known.changes:
                raise Conflict(f"policy {name} is as it was configured; there is nothing before")
            *changes, last = known.changes
            if last.replaced is not None and document.default == name:
                document = structs.replace(document, default=last.replaced)
            return _with(document, name, known, changes)

        self._change(change)

    def _change(self, change: Callable[[Document], Document]) -> None:
        def of_text(text: str | None) -> str:
            document = change(_document(text))
            self._resolved(document)  # refuses what cannot be
            return _encode(document).decode()

        self._store.change_state(_KEY, of_text)
        self.follow()

    def _resolved(self, document: Document) -> Traffic:
        config, policies = self._config, [configured(self._config)]
        for name, known in document.policies.items():
            if not known.changes:
                continue
            state = known.changes[-1]
            is_configured = state.version == CONFIGURED
            policy = Policy(
                name=name,
                version=version_of(config.policy) if is_configured else str(state.version),
                section=config.policy if is_configured else _section(known, state.version),
                mode=state.mode,
                share=state.share,
            )
            policies.append(policy)  # of one name the last
        experiment = config.policies.experiment or config.name
        return Traffic(policies, document.default or config.name, experiment)


def configured(config: Config) -> Policy:
    """Return the policy that the configuration describes."""
    return Policy(
        name=config.name,
        version=version_of(config.policy),
        section=config.policy,
        mode="online",
        share=0.0,
    )


def version_of(section: PolicySection) -> str:
    """Return a version for settings that have no number: a hash."""
    return blake2b(section.model_dump_json().encode(), digest_size=4).hexdigest()


def _document(text: str | None) -> Document:
    return Document() if text is None else _read(text)


def _section(known: Known, version: int) -> PolicySection:
    return PolicySection.model_validate_json(bytes(known.versions[version]))


def _with(document: Document, name: str, known: Known, changes: list[State]) -> Document:
    """Return the document with a policy's changes, and only the versions that they name."""
    changes = changes[-MOST_CHANGES:]
    named = {state.version for state in changes}
    versions = {number: one for number, one in known.versions.items() if number in named}
    known = structs.replace(known, versions=versions, changes=changes)
    return structs.replace(document, policies={**document.policies, name: known})


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == BASELINE:
        raise InvalidInput(
            "a policy's name has 1 to 64 letters, digits, dots, dashes and underscores, begins "
            f"with a letter or digit and is not {BASELINE!r}, got {shown(name)}",
            field="name",
        )
