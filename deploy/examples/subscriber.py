"""A subscriber made from `asyncapi.yaml` alone, as somebody else's system may be: it hears all that a node says, holds
each payload against the document's schema, and takes note of every alert that is raised.

    pip install gmqtt jsonschema pyyaml
    python subscriber.py ../asyncapi.yaml --host broker.lab --site lab1 --node box1 --by "night shift"

It prints a line of JSON for each message. It is an example, not a part of Pellucid, and imports nothing of it.
"""

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path

import yaml
from gmqtt import Client, Subscription
from jsonschema import Draft202012Validator


class Contract:
    """What the document says: on which topics, with which payloads, and where a command goes."""

    def __init__(self, path: Path, **known: str) -> None:
        self._document = yaml.safe_load(path.read_text())
        self._known = known
        self.topics: list[str] = []
        self._told: list[tuple[re.Pattern[str], Draft202012Validator]] = []
        for operation in self._document["operations"].values():
            if operation["action"] == "send":  # it sends, so we hear
                channel = self._at(operation["channel"]["$ref"])
                payload = self._payload(operation["messages"][0]["$ref"])
                self.topics.append(re.sub(r"\{\w+\}", "+", self._address(channel)))
                pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self._address(channel)))
                self._told.append((re.compile(pattern), payload))

    def _at(self, reference: str) -> dict:
        found = self._document
        for word in reference.removeprefix("#/").split("/"):
            found = found[word]
        return self._at(found["$ref"]) if "$ref" in found else found

    def _payload(self, message: str) -> Draft202012Validator:
        schema = self._at(message)["payload"]
        return Draft202012Validator({**schema, "components": self._document["components"]})

    def _address(self, channel: dict) -> str:
        address = channel["address"]
        for name, value in self._known.items():
            address = address.replace(f"{{{name}}}", value)
        return address

    def faults(self, topic: str, payload: bytes) -> list[str]:
        """What of a message is not as the document says."""
        for pattern, validator in self._told:
            if pattern.fullmatch(topic):
                return [f"{one.json_path}: {one.message}" for one in validator.iter_errors(json.loads(payload))]
        return ["no channel has this topic"]

    def command(self, name: str, said: dict) -> tuple[str, str]:
        """Topic and payload of a command. Raises ValidationError."""
        operation = self._document["operations"][f"hear-command-{name}"]
        self._payload(operation["messages"][0]["$ref"]).validate(said)
        return self._address(self._at(operation["channel"]["$ref"])), json.dumps(said)

    def check_answer(self, name: str, payload: bytes) -> dict:
        """The answer to a command. Raises ValidationError."""
        reply = self._document["operations"][f"hear-command-{name}"]["reply"]
        answer = json.loads(payload)
        self._payload(reply["messages"][0]["$ref"]).validate(answer)
        return answer


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


async def listen(contract: Contract, host: str, port: int, by: str) -> None:
    client = Client("example-subscriber")
    answers = "example/subscriber/answers"

    def on_connect(client: Client, flags: int, code: int, properties: object) -> None:
        client.subscribe([Subscription(topic, qos=1) for topic in (*contract.topics, answers)])

    def on_message(client: Client, topic: str, payload: bytes, qos: int, properties: dict) -> int:
        if topic == answers:
            answer = contract.check_answer("acknowledge", payload)
            say(answer=answer["code"], alert_id=properties["correlation_data"][0].decode())
        elif not payload:
            say(topic=topic, cleared=True)
        else:
            body = json.loads(payload)
            say(topic=topic, schema=body["schema"], state=body.get("state"), faults=contract.faults(topic, payload))
            if body.get("state") == "raised":
                command, text = contract.command("acknowledge", {"alert_id": body["alert_id"], "by": by})
                client.publish(command, text, qos=1, response_topic=answers, correlation_data=body["alert_id"].encode())
        return 0

    client.on_connect, client.on_message = on_connect, on_message
    await client.connect(host, port)
    await asyncio.Event().wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("document", type=Path)
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=1883)
    arguments.add_argument("--site", required=True)
    arguments.add_argument("--node", required=True)
    arguments.add_argument("--by", required=True, help="who takes note of alerts")
    given = arguments.parse_args()
    contract = Contract(given.document, site=given.site, node=given.node)
    asyncio.run(listen(contract, given.host, given.port, given.by))


if __name__ == "__main__":
    sys.exit(main())
