"""The samplers a request may name, without importing diffusers: short names, and diffusers' own class names.

A request's string never reaches a loader: it is looked up in these tables and refused when it is not there.
"""

from __future__ import annotations

from typing import Any

from instantid_serve.errors import InvalidRequestError

_KARRAS = {"use_karras_sigmas": True}

# The classes diffusers lists as compatible with SDXL, less one that needs another package and one for another kind of
# model, and the two few-step ones; a test compares this with the installed diffusers.
CLASS_NAMES = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)

SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", _KARRAS),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", {**_KARRAS, "algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Return the scheduler class name and configuration changes that a sampler name stands for.

    Raises InvalidRequestError for a name in neither table.
    """
    if name in CLASS_NAMES:
        return name, {}
    try:
        return SHORT_NAMES[name]
    except KeyError:
        known = sorted(SHORT_NAMES)
        raise InvalidRequestError(f"there is no sampler {name[:40]!r}", {"known": known}) from None
