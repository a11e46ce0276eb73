"""A tenant's defaults: parameters of a generation that its requests leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from instantid_serve.errors import InvalidRequestError
from instantid_serve.service.tenants import Tenant

# Parameters that mean something only together: who gives one of them gives up the defaults of all.
_TOGETHER = ({"width", "height"}, {"identitynet_start", "identitynet_end"})


def with_defaults(parsed: Mapping[str, Any], tenant: Tenant, *, as_text: bool = False) -> dict[str, Any]:
    """The parameters of a body, before they are checked, and the tenant's defaults where the body has none.

    ``as_text``: the body is a form, whose values are all text.
    """
    given = set(parsed)
    left_to_caller = set().union(*(names for names in _TOGETHER if names & given))
    filled = {name: value for name, value in tenant.defaults.items() if name not in given | left_to_caller}
    if as_text:
        filled = {name: value if isinstance(value, str) else json.dumps(value) for name, value in filled.items()}
    return {**filled, **parsed}


def check_defaults(defaults: Mapping[str, Any], fields: type[BaseModel]) -> None:
    """Raise InvalidRequestError unless ``defaults`` are parameters of a generation, each within this server's limits.

    What a request must bring itself, its prompt, may be among them.
    """
    empty = [
        {"pointer": f"/defaults/{name}", "detail": "must have a value"} for name in defaults if defaults[name] is None
    ]
    if empty:
        raise InvalidRequestError("leave out what has no default", {"errors": empty})
    stand_in = {"prompt": "a portrait"}
    try:
        fields.model_validate(stand_in | dict(defaults))
    except ValidationError as error:
        faults = [
            {"pointer": f"/defaults/{fault['loc'][0]}" if fault["loc"] else "/defaults", "detail": fault["msg"]}
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        sentence = "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in faults[:3])
        raise InvalidRequestError(sentence, {"errors": faults[:50]}) from None
