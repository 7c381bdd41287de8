"""Texts on four topics, for interleaving and for choosing what to synthesise.

A text has three or four sentences on one topic, 15 to 30 words, lower-case and without punctuation.
Each topic has words and templates of its own; names and function words are shared. What a text has
said once comes back: a slot keeps its filler to the text's end, so that later words can be told from
earlier ones, which is what a language model must have understood to predict them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping
from typing import Any

from otreg.names import nearest

MIN_WORDS, MAX_WORDS = 15, 30

_PEOPLE = "anna,peter,maria,thomas,daniel,sofia,victor,julia,martin,helen"
# Of each topic: fillers of its slots, then the sentences that open, continue and close a text.
_TOPICS: dict[str, dict[str, Any]] = {
    "kitchen": {
        "slots": {
            "food": "soup,bread,rice,honey,cheese,pepper,garlic,butter,cake,onion",
            "tool": "spoon,kettle,ladle,pan,knife,bowl",
            "did": "cooked,baked,tasted,stirred,sliced,mixed",
            "how": "salty,sweet,bitter,fresh,burnt,tender",
            "meal": "breakfast,lunch,dinner,supper",
        },
        "opening": [
            "for {meal} {person} {did} the {food}",
            "{person} was hungry and {did} some {food} with a {tool}",
        ],
        "middle": [
            "the {food} in the {tool} was {how}",
            "the {tool} was hot and smelled of {food}",
            "{person} ate the {how} {food} at the stove",
        ],
        "closing": [
            "so {person} served {how} {food} for {meal}",
            "then {person} washed the {tool} after {meal}",
        ],
    },
    "harbour": {
        "slots": {
            "ship": "ferry,canoe,yacht,trawler,tanker,raft",
            "catch": "salmon,herring,lobster,oysters,crabs,squid",
            "did": "anchored,steered,rowed,launched,boarded,docked",
            "weather": "stormy,foggy,windy,calm,icy,cloudy",
            "place": "lighthouse,island,pier,lagoon,coast,reef",
        },
        "opening": [
            "{person} {did} a {ship} beside the {place}",
            "on a {weather} sea {person} {did} the {ship}",
        ],
        "middle": [
            "near the {place} the sea was {weather}",
            "the sailors on the {ship} caught {catch}",
            "waves carried the {ship} past the {place}",
        ],
        "closing": [
            "so captain {person} sold the {catch} at the {place}",
            "then the {ship} left the {weather} {place} with {catch}",
        ],
    },
    "school": {
        "slots": {
            "subject": "history,algebra,grammar,physics,music,geography",
            "item": "pencil,notebook,marker,ruler,dictionary,crayon",
            "did": "studied,explained,learned,practised,revised,taught",
            "mood": "difficult,boring,simple,useful,curious,famous",
            "room": "library,classroom,corridor,gymnasium,laboratory,office",
        },
        "opening": [
            "{person} {did} {subject} in the {room}",
            "in the {room} pupils found {subject} {mood}",
        ],
        "middle": [
            "the {mood} lesson on {subject} needed a {item}",
            "a pupil borrowed the {item} of {person}",
            "the question about {subject} was {mood}",
        ],
        "closing": [
            "so {person} wrote the {subject} exam with the {item}",
            "then {person} forgot the {item} in the {room}",
        ],
    },
    "forest": {
        "slots": {
            "animal": "fox,wolf,badger,squirrel,owl,rabbit,deer,hedgehog",
            "tree": "beech,willow,birch,maple,cedar,chestnut",
            "did": "followed,watched,tracked,noticed,chased,startled",
            "look": "furry,brown,shy,wild,tiny,quick",
            "ground": "moss,ferns,bushes,leaves,mushrooms,roots",
        },
        "opening": [
            "under a {tree} {person} {did} a {look} {animal}",
            "{person} walked over {ground} and {did} the {animal}",
        ],
        "middle": [
            "the {animal} was {look} and hid behind the {tree}",
            "branches of the {tree} fell on the {ground}",
            "among the {ground} the {look} {animal} slept",
        ],
        "closing": [
            "so the {animal} ran from {person} into the {ground}",
            "then {person} climbed the {tree} above the {animal}",
        ],
    },
}
TOPICS = tuple(_TOPICS)

_SLOT = re.compile(r"\{(\w+)\}")


def topic_text(topic: str, rng: random.Random) -> str:
    """Draw one text.

    Args:
        topic: of `TOPICS`.
        rng: source of randomness.

    Returns:
        15 to 30 lower-case words separated by single spaces.

    Raises:
        ValueError: for an unknown topic.
    """
    slots, openings, middles, closings = _parts(topic)
    while True:
        chosen = [rng.choice(openings)]
        chosen += rng.sample(middles, rng.randint(1, 2))
        chosen.append(rng.choice(closings))
        fillers = {name: rng.choice(words.split(",")) for name, words in slots.items()}
        text = _filled(" ".join(chosen), fillers)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def topic_texts(
    topic: str, count: int, seed: object, *, exclude: Collection[str] = ()
) -> list[str]:
    """Draw `count` different texts, none of them in `exclude`; see `topic_text`.

    Raises:
        ValueError: for an unknown topic, or more texts than it can give.
    """
    rng = random.Random(f"{seed} {topic}")
    drawn: dict[str, None] = {}
    for _ in range(count * 50):
        if len(drawn) == count:
            break
        text = topic_text(topic, rng)
        if text not in exclude:
            drawn.setdefault(text)
    if len(drawn) < count:
        raise ValueError(
            f"{topic}: asked for {count} different texts, found {len(drawn)}; ask for fewer"
        )
    return list(drawn)


def topic_vocabulary(topic: str) -> list[str]:
    """Return the sorted words that a topic's texts can hold."""
    slots, *sentences = _parts(topic)
    words = set(" ".join(slots.values()).replace(",", " ").split())
    for template in (template for group in sentences for template in group):
        words.update(_SLOT.sub(" ", template).split())
    return sorted(words)


def _parts(topic: str) -> tuple[dict[str, str], list[str], list[str], list[str]]:
    if topic not in _TOPICS:
        raise ValueError(f"unknown topic {topic!r}; {nearest(topic, TOPICS)}")
    parts = _TOPICS[topic]
    slots = {"person": _PEOPLE} | parts["slots"]
    return slots, parts["opening"], parts["middle"], parts["closing"]


def _filled(template: str, fillers: Mapping[str, str]) -> str:
    """The template with every slot filled."""
    return _SLOT.sub(lambda match: fillers[match[1]], template)
