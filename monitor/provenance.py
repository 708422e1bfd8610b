"""What a node is, as its audit tells it: this software, the models that serve, the operator's configuration.

It makes bodies from what is given; it opens no file and writes nothing.
"""

from __future__ import annotations

import hashlib
import platform

import monitor
from engines.load import Loaded
from monitor.audit import canonical
from monitor.config import Config


def software() -> dict[str, object]:
    """What runs."""
    return {"version": monitor.__version__, "python": platform.python_version(), "machine": platform.machine()}


def models(loaded: Loaded) -> dict[str, object]:
    """name -> each model that serves: task, version, digests of its graphs, whose memories it takes, its runtime."""
    return {
        one.manifest.name: {
            "task": one.manifest.task,
            "version": one.manifest.version,
            "sha256": one.manifest.graph.sha256,
            "encoder_sha256": one.manifest.encoder and one.manifest.encoder.graph.sha256,
            "state_id": one.manifest.state_id,
            "runtime": one.engine.runtime,
        }
        for one in loaded.serving
    }


def configuration(config: Config) -> dict[str, object]:
    """Every setting that holds, and the digest of them all. It names files of passwords and keys, never what is in
    them."""
    settings = config.model_dump(mode="json")
    return {"sha256": hashlib.sha256(canonical(settings).encode()).hexdigest(), "settings": settings}
