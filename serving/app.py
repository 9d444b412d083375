"""The applications Serve runs: one per shard, the gateway, the encoder, the learner.

`shard`, `gateway`, `encoder` and `learner` are application builders: a Serve configuration file
names them in `import_path` and gives the Rove configuration's path in `args`
(`cluster/serve.yaml`). `rove serve` deploys the same applications.

The configuration travels to the replicas as plain data, with absolute paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from ray.serve import Application, RunTarget

from rove.config import Config
from rove.errors import ConfigError
from serving.encoder import APP_NAME as ENCODER_APP
from serving.encoder import TextEncoder
from serving.gateway import APP_NAME as GATEWAY_APP
from serving.gateway import Gateway
from serving.learner import APP_NAME as LEARNER_APP
from serving.learner import Learner
from serving.routing import shard_app, shard_path
from serving.shard import BanditShard

A = TypeVar("A", bound="Arguments")
_STOP_S = 5.0
_CHECK_S = 2.0
_SQLITE = "sqlite:///"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_QUIET = {"enable_access_log": False}


class Arguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`args` of an application in a Serve configuration file."""

    config: str
    """Path of the Rove configuration on the cluster."""
    overrides: list[str] = []
    """`a.b=c` each."""


class ShardArguments(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`args` of a shard's application."""

    shard: int


def shard(args: dict[str, Any]) -> Application:
    """Build the application of one shard."""
    arguments = _checked(args, ShardArguments)
    config = Config.load(arguments.config, arguments.overrides)
    if not 0 <= arguments.shard < config.serving.shards:
        raise ConfigError(
            f"shard must be in 0..{config.serving.shards - 1} (serving.shards), "
            f"got {arguments.shard}"
        )
    return shard_application(config, arguments.shard)


def gateway(args: dict[str, Any]) -> Application:
    """Build the gateway's application."""
    return gateway_application(_config(args))


def encoder(args: dict[str, Any]) -> Application:
    """Build the encoder's application."""
    return encoder_application(_config(args))


def learner(args: dict[str, Any]) -> Application:
    """Build the learner's application."""
    return learner_application(_config(args))


def _config(args: dict[str, Any]) -> Config:
    arguments = _checked(args, Arguments)
    return Config.load(arguments.config, arguments.overrides)


def _checked(args: dict[str, Any], kind: type[A]) -> A:
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"args of the application: {error}") from None


def shard_application(config: Config, shard: int) -> Application:
    """Return the application that owns the users of `shard`: one replica, one writer."""
    serving = config.serving
    return BanditShard.options(
        num_replicas=1,
        max_ongoing_requests=2 * serving.max_queue,
        graceful_shutdown_timeout_s=_STOP_S,
        health_check_period_s=_CHECK_S,
        logging_config=_QUIET,
        ray_actor_options={
            "num_cpus": serving.shard_cpus,
            "runtime_env": {"env_vars": _ONE_THREAD},
        },
    ).bind(portable(config), shard)


def gateway_application(config: Config) -> Application:
    """Return the gateway's application."""
    serving = config.serving
    return Gateway.options(
        num_replicas=serving.gateway_replicas,
        max_ongoing_requests=2 * serving.max_queue,
        graceful_shutdown_timeout_s=_STOP_S,
        logging_config=_QUIET,
        ray_actor_options={"num_cpus": serving.gateway_cpus},
    ).bind(portable(config))


def encoder_application(config: Config) -> Application:
    """Return the encoder's application."""
    serving = config.serving
    return TextEncoder.options(
        num_replicas=serving.encoder_replicas,
        max_ongoing_requests=serving.max_queue,
        graceful_shutdown_timeout_s=_STOP_S,
        logging_config=_QUIET,
        ray_actor_options={"num_cpus": serving.encoder_cpus, "num_gpus": serving.encoder_gpus},
    ).bind(portable(config))


def learner_application(config: Config) -> Application:
    """Return the learner's application: one replica, at most one refit at a time."""
    return Learner.options(
        num_replicas=1,
        graceful_shutdown_timeout_s=_STOP_S,
        logging_config=_QUIET,
        ray_actor_options={
            "num_cpus": config.serving.learner_cpus,
            "runtime_env": {"env_vars": _ONE_THREAD},
        },
    ).bind(portable(config))


def targets(config: Config) -> Sequence[RunTarget]:
    """Return everything `rove serve` runs."""
    shards = [
        RunTarget(shard_application(config, shard), shard_app(shard), shard_path(shard))
        for shard in range(config.serving.shards)
    ]
    return [
        *shards,
        RunTarget(encoder_application(config), ENCODER_APP, None),
        RunTarget(learner_application(config), LEARNER_APP, None),
        RunTarget(gateway_application(config), GATEWAY_APP, "/"),
    ]


def portable(config: Config) -> dict[str, Any]:
    """Return the configuration as plain data that means the same in another working directory."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree["releases"]["path"] = str(config.releases.path.absolute())
    if config.access.keys is not None:
        tree["access"]["keys"] = str(config.access.keys.absolute())
    if config.store.url.startswith(_SQLITE):
        folder = Path(config.store.url.removeprefix(_SQLITE))
        tree["store"]["url"] = f"{_SQLITE}{folder.absolute()}"
    return tree
