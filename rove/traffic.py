"""Policies by name: what each may do, and which of them decides for a user.

    online        decides
    apprentice    watches: the baseline is shown, and what it would have chosen is kept beside it
    shadow        as an apprentice, beside whatever decides
    logging_only  the baseline items of the request are shown as they are, and learnt from

One policy is the default: it has the users that the others' shares leave.

- Who decides is a pure function of the user, the experiment's name and the shares, so that a user
  stays with a policy, on every shard and after a restart.
- A user goes from one policy to another only if the other's share has grown in proportion to the
  first one's. Where d of the users have to move (half of the shares' absolute changes), at most
  2 d / (1 + d) do, and no pure function of the shares does better (Bavarian et al. 2016, "On the
  (im)possibility of universal coupling").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from rove.config import PolicySection
from rove.errors import Conflict, InvalidInput, NotFound, shown
from rove.events import RankRequest

Mode = Literal["online", "apprentice", "shadow", "logging_only"]
BASELINE = "baseline"
"""Names what chose the slots where an apprentice shows the request's own items."""
GIVEN = "given"
_KEY_BYTES = 64
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy as it is in force."""

    name: str
    version: str
    section: PolicySection
    mode: Mode
    share: float
    """Of the users: those it decides for, or of a shadow those it is asked for. The default's is
    not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What chooses the slots of one request, and which policies are asked beside it."""

    name: str
    version: str
    section: PolicySection | None
    """None: the request's baseline items are shown as they are."""
    beside: tuple[Policy, ...] = ()


class Traffic:
    """All policies, and who gets which."""

    def __init__(self, policies: Iterable[Policy], default: str, experiment: str) -> None:
        self.policies = {policy.name: policy for policy in policies}
        self.default = self.policies[default]
        _check(self.policies, self.default)
        self._key = experiment.encode()[:_KEY_BYTES]
        others = [one for one in self.policies.values() if one.name != default]
        deciding = {one.name: one.share for one in others if one.mode != "shadow" and one.share}
        self._shares = {**deciding, default: max(0.0, 1.0 - math.fsum(deciding.values()))}
        self._shadows = [one for one in others if one.mode == "shadow" and one.share]

    def find(self, name: str) -> Policy:
        """Return a policy."""
        found = self.policies.get(name)
        if found is None:
            known = ", ".join(sorted(self.policies))
            raise NotFound(f"there is no policy {shown(name)}; there are {known}")
        return found

    def share_of(self, name: str) -> float:
        """Return the share of the users that a policy has; of a shadow, that it is asked for."""
        policy = self.find(name)
        return self._shares.get(name, policy.share if policy.mode == "shadow" else 0.0)

    def dealt_to(self, user_id: str) -> Policy:
        """Return the policy whose share a user is in."""
        if len(self._shares) == 1:
            return self.default
        return self.policies[deal(user_id, self._shares, self._key)]

    def play(self, request: RankRequest) -> Play:
        """Return what chooses the slots of a request; raise if nothing can."""
        policy = self.dealt_to(request.user_id) if request.policy is None else None
        policy = policy or self.find(request.policy or "")
        shadows = tuple(
            one
            for one in self._shadows
            if uniform(request.user_id, one.name, self._key) < one.share
        )
        if policy.mode == "online":
            return _played(policy, shadows)
        if policy.mode == "shadow":
            raise InvalidInput(
                f"policy {policy.name} is a shadow, which decides nothing; put it with mode online "
                "or apprentice, or leave policy out",
                field="policy",
            )
        beside = (policy, *shadows) if policy.mode == "apprentice" else shadows
        if policy.mode == "apprentice" and not request.baseline_items:
            if policy is self.default or self.default.mode != "online":
                raise _no_baseline(policy)
            return _played(self.default, beside)
        if not request.baseline_items:
            raise _no_baseline(policy)
        is_logging = policy.mode == "logging_only"
        return Play(
            name=policy.name if is_logging else BASELINE,
            version=policy.version if is_logging else GIVEN,
            section=None,
            beside=beside,
        )


def deal(user_id: str, shares: Mapping[str, float], key: bytes) -> str:
    """Return whose share a user is in: shares sum to one.

    An exponential race: argmin over p of -log(u_p) / share_p, u_p uniform by hash (weighted
    rendezvous hashing; Thaler and Ravishankar 1998), is p with probability share_p.
    """
    return min(
        (name for name, share in shares.items() if share > 0.0),
        key=lambda name: -math.log(uniform(user_id, name, key)) / shares[name],
    )


def uniform(user_id: str, name: str, key: bytes) -> float:
    """Return a number in (0, 1) that a user has with a policy."""
    text = f"{len(name)}:{name}{user_id}".encode()
    digest = blake2b(text, digest_size=7, key=key).digest()
    return ((int.from_bytes(digest, "big") >> 4) + 0.5) / 2.0**52


def _played(policy: Policy, beside: tuple[Policy, ...]) -> Play:
    return Play(name=policy.name, version=policy.version, section=policy.section, beside=beside)


def _no_baseline(policy: Policy) -> InvalidInput:
    return InvalidInput(
        f"policy {policy.name} is {policy.mode}: it shows what the request names in "
        "baseline_items, got none; give the items in the order in which they are shown",
        field="baseline_items",
    )


def _check(policies: Mapping[str, Policy], default: Policy) -> None:
    if default.mode == "shadow":
        raise Conflict(
            f"policy {default.name} is the default, which has to decide, and cannot be a shadow; "
            "promote another one first"
        )
    shares = {
        one.name: one.share
        for one in policies.values()
        if one is not default and one.mode != "shadow" and one.share
    }
    total = math.fsum(shares.values())
    if total > 1.0 + _SLACK:
        each = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise Conflict(f"the shares sum to {total:g}, more than 1: {each}; lower one of them first")
