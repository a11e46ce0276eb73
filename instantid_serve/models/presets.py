"""The models that can be fetched, as data: where each file lies, which bytes it must be, and whose licence it is under.

Every revision is a commit, every hash a SHA-256. Those of InstantX's and Stability AI's files were collected from
public projects that pin the same commits, not read from the hub; one that is wrong refuses its file by name, it lets
nothing in. Those of the face pack are InsightFace's own (``insightface_server/models/packages.py``).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Licence:
    """Terms the operator must accept. ``plain`` says in one sentence what they mean for a service."""

    name: str
    of: str
    plain: str
    url: str


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """One file: where its source has it, where the model folder has it, and which bytes it must be.

    ``git_sha1`` is what git calls the content; the hub knows it for the small files it keeps no SHA-256 of.
    """

    path: str
    target: str
    sha256: str | None
    size_bytes: int | None = None
    git_sha1: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one hub repository at one commit."""

    repo: str
    revision: str
    licence: Licence
    files: tuple[Pin, ...]

    @property
    def source(self) -> str:
        """As manifests name it."""
        return f"{self.repo}@{self.revision}"


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """Files inside one zip file; they may lie in any folder of it."""

    url: str
    sha256: str
    size_bytes: int
    licence: Licence
    files: tuple[Pin, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """All that makes up one model folder."""

    name: str
    instantid: HubFiles
    base: HubFiles
    faces: Archive


_INSTANTX = Licence(
    name="Apache-2.0, research use",
    of="InstantX/InstantID (IdentityNet and the identity adapter)",
    plain="Tagged Apache-2.0, but its authors write that the checkpoints are for research purposes only.",
    url="https://github.com/instantX-research/InstantID#disclaimer",
)
_ANTELOPEV2 = Licence(
    name="InsightFace non-commercial research",
    of="antelopev2 (InsightFace's face detector and recogniser)",
    plain="For non-commercial research only; a commercial licence is asked for at recognition-oss-pack@insightface.ai.",
    url="https://github.com/deepinsight/insightface#license",
)
_SDXL = Licence(
    name="CreativeML Open RAIL++-M",
    of="stabilityai/stable-diffusion-xl-base-1.0 (the base model)",
    plain="Commercial use is allowed; the uses listed in its Attachment A are forbidden, to your users as well.",
    url="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
)

_INSTANTID_FILES = HubFiles(
    repo="InstantX/InstantID",
    revision="57b32dfee076092ad2930c71fd6d439c2c3b1820",
    licence=_INSTANTX,
    files=(
        Pin(
            "ControlNetModel/config.json",
            "ControlNetModel/config.json",
            "2480c42f363d712faae8d0e17cb850a5d1e4cafc232fbd022b1d43eee45234eb",
        ),
        Pin(
            "ControlNetModel/diffusion_pytorch_model.safetensors",
            "ControlNetModel/diffusion_pytorch_model.safetensors",
            "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05",
            2_502_139_136,
        ),
        Pin(
            "ip-adapter.bin",
            "ip-adapter.safetensors",
            "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1",
            1_691_134_141,
        ),
    ),
)

_FACE_FILES = Archive(
    url="https://github.com/deepinsight/insightface/releases/download/model-zoo/antelopev2.zip",
    sha256="8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
    size_bytes=360_662_982,
    licence=_ANTELOPEV2,
    files=(
        Pin(
            "scrfd_10g_bnkps.onnx",
            "antelopev2/scrfd_10g_bnkps.onnx",
            "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
            16_923_827,
        ),
        Pin(
            "glintr100.onnx",
            "antelopev2/glintr100.onnx",
            "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
            260_665_334,
        ),
    ),
)

# The half-precision weights: half the download, and no GPU serves SDXL in more.
_SDXL_FILES = (
    ("model_index.json", 609, "6d7b93508390ab91ac5bfbe4aeb4dc2d83f7bb1b05fb069d714b5b0c75f70d44"),
    ("scheduler/scheduler_config.json", 479, "af3e45a949aff8b8341ab8b811429ec03fee857a700a1d9477363e4fff9666e2"),
    ("text_encoder/config.json", 565, "39b8b2e4b1949e36969caa425b6c81c68bace99198dd9078ce05d16ad401fe7f"),
    (
        "text_encoder/model.fp16.safetensors",
        246_144_152,
        "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    ),
    ("text_encoder_2/config.json", 575, "a892d1c3a69a7e9247a24de2bc1d5891e3109a54696e53be20093af671072c34"),
    (
        "text_encoder_2/model.fp16.safetensors",
        1_389_382_176,
        "ec310df2af79c318e24d20511b601a591ca8cd4f1fce1d8dff822a356bcdb1f4",
    ),
    ("tokenizer/merges.txt", 524_619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    ("tokenizer/special_tokens_map.json", 472, "c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac"),
    ("tokenizer/tokenizer_config.json", 737, "19d7b034cb0cc3ce9766c2231373ab8aa8991fc72e2c8f76558bfaae3de0d563"),
    ("tokenizer/vocab.json", 1_059_962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    ("tokenizer_2/merges.txt", 524_619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    ("tokenizer_2/special_tokens_map.json", 460, "f118ab3a983206e4f32583448de6bd6aae4ee21869135cef1f5848a753cdaab6"),
    ("tokenizer_2/tokenizer_config.json", 725, "c9d23941f76a41cbd50eda9290f57be7828f0a7a677939e9ef181f7e12bd1bdf"),
    ("tokenizer_2/vocab.json", 1_059_962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    ("unet/config.json", 1_680, "30ebc70750223e59006f7f2b4e1e6c102570aa19a9c4ae3e1fbe7591332dbae6"),
    (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        5_135_149_760,
        "83e012a805b84c7ca28e5646747c90a243c65c8ba4f070e2d7ddc9d74661e139",
    ),
    ("vae/config.json", 642, "0b331c8ac22ded5f9997a144a575c1d113d6169aff262c353f39015bd24a6264"),
    (
        "vae/diffusion_pytorch_model.fp16.safetensors",
        167_335_342,
        "bcb60880a46b63dea58e9bc591abe15f8350bde47b405f9c38f4be70c6161e68",
    ),
)

INSTANTID_SDXL = Preset(
    name="instantid-sdxl",
    instantid=_INSTANTID_FILES,
    base=HubFiles(
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        licence=_SDXL,
        files=tuple(
            Pin(path, f"base/{path.replace('.fp16.', '.')}", sha256, size) for path, size, sha256 in _SDXL_FILES
        ),
    ),
    faces=_FACE_FILES,
)

PRESETS = {INSTANTID_SDXL.name: INSTANTID_SDXL}
