"""A model of a few hundred bytes: a memory of brightness that fades, and a number made of it; ONNX, manifest, engines.

GRAPH was written with onnx.helper: b = ReduceMean(x, 1..3); state_next = state * half + b; y = Sigmoid(state_next @ w).
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from engines.manifest import Manifest, read_manifest

GRAPH = base64.b64decode(
    "CAk6swQKLwoBeAoFYXhlczMSBmJyaWdodCIKUmVkdWNlTWVhbioPCghrZWVwZGltcxgAoAECChsKBmJyaWdodAoDb25lEgFiIglVbnNxdWVl"
    "emUKGQoFc3RhdGUKBGhhbGYSBWZhZGVkIgNNdWwKGwoFZmFkZWQKAWISCnN0YXRlX25leHQiA0FkZAoaCgpzdGF0ZV9uZXh0CgF3EgF6IgZN"
    "YXRNdWwKGgoBehIMeV9ibGFzdG9jeXN0IgdTaWdtb2lkEgR0aW55KiUIAxAHQgVheGVzM0oYAQAAAAAAAAACAAAAAAAAAAMAAAAAAAAAKhMI"
    "ARAHQgNvbmVKCAEAAAAAAAAAKlwIFBABQgRoYWxmSlDNzMw9C4QRPq+hPD5Uv2c+fG6JPk79nj4gjLQ+8xrKPsWp3z6XOPU+tWMFPx4rED+H"
    "8ho/8LklP1mBMD/CSDs/KxBGP5TXUD/9nls/ZmZmPypbCBQIARABQgF3SlAAAIC/eQ1lv/MaSr9sKC+/5TUUv72G8r6voby+oryGviivIb42"
    "lFe9NpRXPSivIT6ivIY+r6G8Pr2G8j7lNRQ/bCgvP/MaSj95DWU/AACAP1ocCgF4EhcKFQgBEhEKAxIBQgoCCAIKAggECgIIBFoYCgVzdGF0"
    "ZRIPCg0IARIJCgMSAUIKAggUYh8KDHlfYmxhc3RvY3lzdBIPCg0IARIJCgMSAUIKAggBYh0KCnN0YXRlX25leHQSDwoNCAESCQoDEgFCCgII"
    "FEIECgAQEg=="
)


def write_tiny(folder: Path, name: str = "tiny", compute: str = "fp32", graph: bytes = GRAPH) -> Path:
    """The model in a folder; its manifest's path."""
    (folder / f"{name}.onnx").write_bytes(graph)
    told = {
        "schema": "pellucid.manifest/1",
        "name": name,
        "version": "0",
        "task": "blastocyst",
        "graph": {"file": f"{name}.onnx", "sha256": hashlib.sha256(graph).hexdigest(), "opset": 18},
        "state_id": "7" * 64,
        "inputs": [{"name": "x", "shape": [2, 4, 4]}],
        "outputs": [{"name": "y_blastocyst", "shape": [1], "classes": ["blastocyst"]}],
        "state": {"shape": [20]},
        "preprocess": {
            "planes_um": [0, 15],
            "height_px": 4,
            "width_px": 4,
            "mean": 0.5,
            "std": 0.25,
            "allowed_plane_counts": [1, 2],
        },
        "segments": {"segment_h": 6.0, "count": 28},
        "tolerance": {"absolute": 1e-5},
        "precision": {"compute": compute},
        "provenance": {"trained_on": "nothing"},
        "intended_use": "tests",
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(told))
    return path


def tiny_manifest(folder: Path) -> Manifest:
    return read_manifest(write_tiny(folder))
