"""The one configuration class. It refuses to start wrong: unknown keys and variables are named and refused.

Values come from the ``args`` of a Serve config under ``deployments/`` and, above them, from environment variables named
``INSTANTID_<SECTION>__<KEY>`` (for secrets and per-pod values). Only the composition root reads this; every other part
is handed the values it needs.
"""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from instantid_serve.errors import ConfigurationError

ENV_PREFIX = "INSTANTID_"
TENANT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"

# What an API key may do. `admin` is for operators: tenants, their keys and limits.
Scope = Literal[
    "generations:read",
    "generations:write",
    "identities:read",
    "identities:write",
    "webhooks:read",
    "webhooks:write",
    "keys:read",
    "keys:write",
    "usage:read",
    "admin",
]
SCOPES: tuple[Scope, ...] = typing.get_args(Scope)
TENANT_SCOPES: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope != "admin")


def data_home() -> Path:
    """Where a laptop keeps models, jobs and pictures: ``$XDG_DATA_HOME/instantid-serve``."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "instantid-serve"


def _expand(path: Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


ExpandedPath = Annotated[Path, AfterValidator(_expand)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model folder is served, and on what."""

    preset: Literal["miniature", "instantid-sdxl"] = "miniature"
    # Where `weights make` and `weights fetch` put the preset.
    folder: ExpandedPath = Field(default_factory=lambda earlier: data_home() / "models" / earlier["preset"])
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: Count = 1  # torch threads of a Generator replica; replicas that share a machine must not fight for cores


class FaceSettings(_Section):
    """How faces are found."""

    analyzer: Literal["builtin", "insightface"] = "builtin"
    folder: ExpandedPath | None = None  # of antelopev2's two ONNX files; None: `antelopev2` in the model folder
    providers: tuple[str, ...] = ("CPUExecutionProvider",)  # asserted at start: never silently on the CPU
    threads: Count = 1
    min_face_px: Count = 40  # short side of the face's box in the photo
    detection_threshold: float = Field(0.5, gt=0, lt=1)
    remembered_photos: Count = 256  # photos whose faces a replica keeps in memory for their tenant's next job
    remembered_s: Seconds = 600.0  # and how long a generator remembers what it computed from a face


class EngineSettings(_Section):
    """Step-level continuous batching: its limits, and what makes a step fast on a GPU (all of it off on a CPU)."""

    max_batch_rows: Count = 16
    max_resident_requests: Count = 32  # prepared requests held at once, waiting or running
    state_bytes: Count | None = None  # what these may hold; None: most of the memory that the largest batch leaves
    exact_rows: Count = 8  # of every batch in the fixed-bucket tier; another number gives other bits
    cache_bytes: Count = 256_000_000  # prompts and faces that may be asked for again, as keys and values
    decode_together: Count = 1  # pictures of one size in one run of the VAE
    calibrate: bool = True  # measure step times at the first start on a kind of device, so that the knee is known
    calibration_folder: ExpandedPath = Field(default_factory=lambda: data_home() / "calibration")
    channels_last: bool = False
    compile: bool = False  # each block of the networks; the first pictures of a size then take minutes
    cuda_graphs: bool = False
    fp8_linears: bool = False  # changes pictures, which every result declares; needs the extra `fp8`
    ageing_s: Seconds = 0.5  # a request that came this much earlier counts as one step shorter
    warm_up_timeout_s: Seconds = 300.0  # of the first picture: on a GPU its kernels are compiled
    stuck_step_s: Seconds = 120.0  # a step that takes longer hangs, and the replica is replaced

    @model_validator(mode="after")
    def _exact_rows_hold_a_request(self) -> Self:
        if self.exact_rows < 2:  # noqa: PLR2004 - with guidance a request has two rows
            raise ValueError("exact_rows must be at least 2, the rows of a request with guidance")
        return self


class DatabaseSettings(_Section):
    """Where jobs are kept: an SQLAlchemy URL."""

    url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{data_home() / 'jobs.sqlite3'}"), validate_default=True
    )
    busy_timeout_s: Seconds = 10.0
    upgrade_at_start: bool = True  # False where a job runs `instantid-serve database upgrade` before a roll-out


class FolderStoreSettings(_Section):
    """Photos and pictures in a folder."""

    kind: Literal["folder"] = "folder"
    folder: ExpandedPath = Field(default_factory=lambda: data_home() / "results")


class S3StoreSettings(_Section):
    """Photos and pictures in an S3 bucket. Keys come from boto3's own chain (environment, role, service account)."""

    kind: Literal["s3"]
    bucket: str = Field(min_length=3)
    prefix: str = ""
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None  # where tenants reach the store, in links; None: where this service does
    region: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    # boto3 >= 1.36 sends checksums that stores other than AWS may write into the object: "when_required" for those.
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 30.0
    max_attempts: Count = 4


class DispatcherSettings(_Section):
    """How jobs are claimed and driven through the stages."""

    max_pictures_in_flight: Count = 32  # no more than the generators can take soon
    lease_s: Seconds = 30.0
    heartbeat_s: Seconds = 1.0  # also how soon a cancel reaches the engine and progress reaches the row
    poll_s: Seconds = 0.1
    reserved_share: Annotated[float, Field(ge=0, lt=1)] = 0.125  # of these, for tenants that have little running
    max_attempts: Count = 3
    stage_timeout_s: Seconds = 600.0
    release_delay_s: Seconds = 1.0  # before a job whose stage died is tried again; doubles with every attempt
    drain_timeout_s: Seconds = 20.0  # how long a stopping dispatcher waits for its jobs before it hands them back

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError("lease_s must be at least three heartbeats")
        return self


class ApiKey(_Section):
    """An API key for as long as the file names it: whose it is, and the key's SHA-256 in hex. The key is nowhere."""

    tenant: str = Field(pattern=TENANT_PATTERN)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = TENANT_SCOPES


class ApiSettings(_Section):
    """What the HTTP API takes."""

    keys: tuple[ApiKey, ...] = ()
    max_body_bytes: Count = 15_000_000  # a 10 MB photo in base64, and the rest
    max_photo_bytes: Count = 10_000_000
    max_wait_s: Seconds = 60.0  # of `Prefer: wait`
    poll_s: Seconds = 0.1
    max_queued_jobs: Count = 50_000  # of all tenants together; beyond it everybody is refused with 503
    max_event_streams: Count = 100  # of one tenant in one replica
    max_event_streams_in_all: Count = 160  # in one replica: less than its max_ongoing_requests, or nobody else gets in


class LimitSettings(_Section):
    """The ranges a request's parameters must lie in. Sides are pixels."""

    native_side: Count = 1024  # the long side when a request names no size
    min_side: Count = 64
    max_side: Count = 2048
    max_pixels: Count = 2_359_296  # 1536 x 1536
    max_steps: Count = 100
    max_count: Count = 4
    max_prompt_chars: Count = 2000


class TenancySettings(_Section):
    """What a tenant may do where its own row says nothing, and how keys and limits are checked."""

    requests_per_minute: Count = 1200  # of all routes together
    max_running_pictures: Count | None = None
    max_queued_jobs: Count = 1000
    pictures_per_month: Count | None = None
    retention_s: Seconds = 86_400.0  # of a job with its photo and pictures, from its end
    identity_retention_s: Seconds = 30 * 86_400.0  # of an identity's photos, from its registration
    upload_retention_s: Seconds = 3600.0
    key_cache_s: Annotated[float, Field(gt=0, le=5)] = 3.0  # how long a revoked key may still work
    rate_limit_storage: SecretStr = SecretStr("memory://")  # or redis://…, which the API's replicas share
    rate_limit_timeout_s: Seconds = 0.25  # for an answer of that storage; without one, requests go on unlimited
    failed_logins_per_minute: Count = 60  # with keys that are not valid, per client address


class OutboundSettings(_Section):
    """What may be fetched from, or sent to, addresses that tenants name."""

    allowed_networks: tuple[str, ...] = ()  # private networks (CIDR) that may be reached all the same
    ports: tuple[int, ...] = (80, 443)
    webhooks_need_https: bool = True
    fetch_timeout_s: Seconds = 10.0
    webhook_timeout_s: Seconds = 15.0


class HousekeepingSettings(_Section):
    """The work beside generations: webhooks are delivered, and what is past its time is removed."""

    poll_s: Seconds = 0.5
    max_deliveries_in_flight: Count = 512  # a receiver that hangs costs a socket and little else
    max_deliveries_per_host: Count = 8  # a receiver that hangs holds no more than these
    max_deliveries_per_tenant: Count = 64
    keep_deliveries_s: Seconds = 14 * 86_400.0  # those that ended, as the log of their endpoint
    sweep_every_s: Seconds = 60.0


class Settings(BaseSettings):
    """Everything one application is configured with."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    model: ModelSettings = Field(default_factory=ModelSettings)
    faces: FaceSettings = Field(default_factory=FaceSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    results: Annotated[FolderStoreSettings | S3StoreSettings, Field(discriminator="kind")] = Field(
        default_factory=FolderStoreSettings
    )
    dispatcher: DispatcherSettings = Field(default_factory=DispatcherSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    tenancy: TenancySettings = Field(default_factory=TenancySettings)
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)
    housekeeping: HousekeepingSettings = Field(default_factory=HousekeepingSettings)

    @model_validator(mode="after")
    def _fp8_is_for_bfloat16(self) -> Self:
        if self.engine.fp8_linears and self.model.dtype != "bfloat16":
            raise ValueError("engine.fp8_linears needs model.dtype bfloat16")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment stands above the file, so that a pod's secrets need not be in it."""
        return env_settings, init_settings

    @classmethod
    def load(cls, values: dict[str, Any] | None = None) -> Self:
        """Check the ``args`` of a Serve config. Raises ConfigurationError naming every wrong key."""
        _refuse_unknown_variables(cls)
        try:
            return cls(**(values or {}))
        except ValidationError as error:
            # The input is left out: it may hold a secret.
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise ConfigurationError(f"the configuration is wrong: {faults}") from None
        except SettingsError as error:  # names the field; its cause, which holds the value, is left out
            raise ConfigurationError(f"an {ENV_PREFIX} environment variable is not JSON: {error}") from None


def _refuse_unknown_variables(cls: type[Settings]) -> None:
    known = {f"{ENV_PREFIX}{name}".upper() for name in cls.model_fields} | {"INSTANTID_API_KEY", "INSTANTID_URL"}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name.split("__")[0] not in known:
            raise ConfigurationError(f"the environment variable {name} is not a setting")
