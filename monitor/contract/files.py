"""Every file of the contract: name below the folder -> its text. The same models give the same bytes."""

from __future__ import annotations

import json

from monitor.contract.asyncapi import document
from monitor.contract.samples import samples
from monitor.contract.schemas import schemas


def files() -> dict[str, str]:
    """All of them."""
    import yaml  # a tool of whoever changes the contract; the device carries none

    apart = json.loads(json.dumps(document()))  # nothing shared, so that YAML writes no anchors
    head = "# Made by `make contract` from the node's own models; do not edit.\n"
    made = {"asyncapi.yaml": head + yaml.safe_dump(apart, sort_keys=False, width=110, allow_unicode=True)}
    for kind, all_of in (("schemas", schemas()), ("samples", samples())):
        for name, value in all_of.items():
            made[f"{kind}/{name}.json"] = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return made
