"""The application with a result store that takes its time, as one far away does, and PNG at the default level."""

from __future__ import annotations

import hashlib
import io
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ray.serve import Application

from instantid_serve.messages import GenerationSpec, StoredImage
from instantid_serve.service.generation import Finished
from instantid_serve.serving import app
from instantid_serve.serving.replicas import publisher

UPLOAD_S = "BENCH_UPLOAD_S"  # seconds an upload takes; unset: the service's own publisher


def default_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode as anybody would who does not think of it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Publisher(publisher.Publisher):
    """The service's own, or a slow one."""

    def _publish(
        self, pixels: NDArray[np.uint8], finished: Finished, key: str, spec: GenerationSpec, seed: int
    ) -> StoredImage:
        upload_s = float(os.environ.get(UPLOAD_S, "0"))
        if not upload_s:
            return super()._publish(pixels, finished, key, spec, seed)
        data = default_png(pixels)
        time.sleep(upload_s)
        self._store.put(key, data, "image/png")
        height, width, _ = pixels.shape
        return StoredImage(key, "image/png", len(data), hashlib.sha256(data).hexdigest(), width, height, seed)


def build(args: dict[str, Any]) -> Application:
    """Build the service with this publisher."""
    return app.compose(args, publisher_class=Publisher)
