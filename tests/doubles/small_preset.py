"""A preset of miniature size, served from loopback: the miniature dressed as what InstantX and InsightFace publish."""

import hashlib
import io
import zipfile

import torch
from safetensors.torch import load_file

from instantid_serve.models.presets import INSTANTID_SDXL, Archive, HubFiles, Pin, Preset

INSTANTID_COMMIT, BASE_COMMIT = "1" * 40, "2" * 40
FACES = {"scrfd_10g_bnkps.onnx": b"detector" * 100, "glintr100.onnx": b"recogniser" * 1000}


def publish(server, miniature_folder):
    """Serve the small model's repositories and face pack; return the preset that pins them."""
    adapter = io.BytesIO()
    state = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(miniature_folder / "ip-adapter.safetensors").items():
        group, _, name = key.partition(".")
        state[group][name] = tensor
    torch.save(state, adapter)
    net = {f"ControlNetModel/{p.name}": p.read_bytes() for p in (miniature_folder / "ControlNetModel").iterdir()}
    instantid = {**net, "ip-adapter.bin": adapter.getvalue(), "README.md": b"not wanted"}
    server.add_repository("x/InstantID", INSTANTID_COMMIT, instantid)
    base = base_files(miniature_folder)
    server.add_repository("y/sdxl", BASE_COMMIT, base)
    pack = face_pack({f"antelopev2/antelopev2/{name}": content for name, content in FACES.items()})
    server.files["/releases/antelopev2.zip"] = pack
    return Preset(
        name="instantid-sdxl",
        instantid=HubFiles(
            repo="x/InstantID",
            revision=INSTANTID_COMMIT,
            licence=INSTANTID_SDXL.instantid.licence,
            files=tuple(
                _pin(name, name.replace(".bin", ".safetensors"), content)
                for name, content in instantid.items()
                if name != "README.md"
            ),
        ),
        base=HubFiles(
            repo="y/sdxl",
            revision=BASE_COMMIT,
            licence=INSTANTID_SDXL.base.licence,
            files=tuple(
                _pin(name, f"base/{name.replace('.fp16.', '.')}", base[name]) for name in base if name != "README.md"
            ),
        ),
        faces=archive(server, pack),
    )


def base_files(miniature_folder):
    """The miniature's base as a repository: its weights in the half-precision variant's names, and a README."""
    files = {"README.md": b"not wanted"}
    for path in sorted((miniature_folder / "base").rglob("*")):
        if path.is_file():
            name = path.relative_to(miniature_folder / "base").as_posix()
            files[name.replace(".safetensors", ".fp16.safetensors")] = path.read_bytes()
    return files


def face_pack(members):
    """A zip file of ``members`` (name to bytes) and of a file no one wants."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in {**members, "antelopev2/genderage.onnx": b"not wanted"}.items():
            opened.writestr(name, content)
    return packed.getvalue()


def archive(server, pack):
    """The pins of a face pack that holds FACES."""
    return Archive(
        url=f"{server.url}/releases/antelopev2.zip",
        sha256=hashlib.sha256(pack).hexdigest(),
        size_bytes=len(pack),
        licence=INSTANTID_SDXL.faces.licence,
        files=tuple(_pin(name, f"antelopev2/{name}", content) for name, content in FACES.items()),
    )


def _pin(path, target, content):
    return Pin(path, target, hashlib.sha256(content).hexdigest(), len(content))
