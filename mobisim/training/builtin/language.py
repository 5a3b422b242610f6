"""The generated language of the built-in task: short stories about a visit, and what to do next.

A story judges up to three *aspects* of a visit (food, service, place), each for better or worse
and in one of several ways: said plainly, negated, denied, reported, contrasted, told by a deed,
or revised later. It ends with a question. In the pre-training text an answer follows, whose verbs
fit one aspect and its polarity each; a model that predicts the first of them has to carry every
polarity, one by one, to the last word of the story. The labelled task asks for something that no
single polarity says: whether the number of complaints is odd (an exclusive or).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, count
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WORSE, BETTER = 0, 1

TASK_SEED = 20_240_607
SPLIT_SIZES: Mapping[str, int] = {"train": 2000, "validation": 500, "test": 1000}

# Every word is one token, and the tokenizer puts one special token in front.
MAX_WORDS = 63


@dataclass(frozen=True)
class TextSplit:
    """Texts of one split and their labels: 1 where the number of complaints is odd, else 0."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Aspect:
    """A side of the visit; pairs are (for worse, for better), so that a polarity indexes them."""

    nouns: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]
    deeds: tuple[tuple[str, ...], tuple[str, ...]]
    advice: tuple[tuple[str, ...], tuple[str, ...]]


ASPECTS: Mapping[str, Aspect] = {
    "food": Aspect(
        nouns=("soup", "bread", "fish", "stew", "pie", "cake", "cheese", "rice", "salad", "roast"),
        adjectives=(
            ("stale", "bland", "burnt", "greasy", "salty", "tasteless"),
            ("tasty", "fresh", "delicious", "tender", "juicy", "spicy"),
        ),
        deeds=(
            (
                "we sent the {noun} back",
                "{who} left the {noun} untouched",
                "even the dog refused the {noun}",
            ),
            (
                "we enjoyed every bite of the {noun}",
                "{who} asked for more {noun}",
                "soon no {noun} was left on the plate",
            ),
        ),
        advice=(("skip", "avoid", "refuse", "return"), ("order", "taste", "savour", "try")),
    ),
    "service": Aspect(
        nouns=("waiter", "waitress", "host", "cook", "barman", "owner", "manager", "maid"),
        adjectives=(
            ("rude", "slow", "careless", "grumpy", "impatient", "lazy"),
            ("friendly", "kind", "polite", "attentive", "patient", "cheerful"),
        ),
        deeds=(
            (
                "the {noun} ignored us",
                "the {noun} kept {who} waiting",
                "the {noun} shouted at {who}",
            ),
            (
                "the {noun} smiled at us",
                "the {noun} helped {who} with everything",
                "the {noun} brought us a gift",
            ),
        ),
        advice=(("scold", "report", "blame", "warn"), ("tip", "thank", "praise", "reward")),
    ),
    "place": Aspect(
        nouns=("room", "garden", "terrace", "hall", "parlour", "cellar", "kitchen", "balcony"),
        adjectives=(
            ("dirty", "noisy", "dark", "cramped", "draughty", "ugly"),
            ("cosy", "clean", "bright", "quiet", "roomy", "pretty"),
        ),
        deeds=(
            (
                "we could not bear the {noun}",
                "{who} ran out of the {noun}",
                "there were mice in the {noun}",
            ),
            (
                "we felt at home in the {noun}",
                "{who} took pictures of the {noun}",
                "there were roses in the {noun}",
            ),
        ),
        advice=(("leave", "flee", "shun", "scrub"), ("book", "reserve", "visit", "choose")),
    ),
}

ANY_ADJECTIVES = (
    ("bad", "poor", "awful", "terrible", "dreadful", "disappointing"),
    ("good", "fine", "excellent", "wonderful", "lovely", "great"),
)

# {same} is an adjective of the polarity that the sentence conveys, {other} one of its opposite.
JUDGEMENTS = (
    "the {noun} was {degree} {same}",
    "the {noun} seemed {same} to {who}",
    "{who} {found} the {noun} {degree} {same}",
    "the {noun} was {never} {other}",
    "{who} would {never} call the {noun} {other}",
    "nobody {found} the {noun} {other}",
    "the {noun} looked {other} but was {degree} {same}",
    "{who} had feared or hoped for {other} things , but the {noun} was {same}",
    "the {noun} used to be {other} , but not any more",
)

REVISIONS = (
    ("later {who} changed every opinion of the {noun}", True),
    ("in the end the {noun} proved to be the opposite", True),
    ("later {who} thought the same of the {noun}", False),
    ("in the end the {noun} stayed that way", False),
)

# A reaction belongs to the sentence before it, and fits what that sentence alone says.
REACTIONS = (
    (
        ", so {who} was annoyed",
        ", so {who} was sad",
        ", so {who} was angry",
        ", so {who} was upset",
    ),
    (
        ", so {who} was pleased",
        ", so {who} was glad",
        ", so {who} was happy",
        ", so {who} was amused",
    ),
)

OPENINGS = (
    "{when} we {went} to {house} {where}",
    "{who} and i {went} to {house} {when}",
    "this is about {house} {where}",
    "{house} {where} had been named to us {when}",
)

FILLERS = (
    "it was {weather} outside",
    "we came by {vehicle} and stayed for {number} hours",
    "there were {number} of us at the table",
    "{who} wore {colour} shoes and {who} wore {colour} gloves",
    "a {colour} cat slept by the door",
    "the walls were {colour} and the chairs were {colour}",
    "{who} talked about the {weather} sky",
    "we paid {number} coins",
)

QUESTIONS = (
    "any advice ?",
    "what should one do ?",
    "so what would you do ?",
    "what now ?",
)

# An echo begins the answer with a noun or a person of the story. A backbone that expects echoes
# carries those to the story's last word as well, and no longer spells out there how the
# polarities combine: without them a linear probe reads the label off the last layer.
PLAIN_ANSWER, ECHO_ANSWER = "{verb} the {noun}", "{noun} : {verb} it"
ADDRESS_RATE = 0.3

SLOTS: Mapping[str, tuple[str, ...]] = {
    "degree": ("", "", "very", "rather", "quite", "truly", "always"),
    "never": ("not", "never", "hardly", "by no means"),
    "found": ("found", "called", "considered"),
    "who": ("anna", "peter", "maria", "john", "my sister", "my brother", "our friend", "my uncle"),
    "when": ("yesterday", "last week", "last winter", "on monday", "in may", "one evening"),
    "went": ("went", "drove", "walked", "travelled"),
    "house": ("an inn", "a tavern", "a hotel", "a small restaurant", "a large pub"),
    "where": ("by the sea", "in the hills", "near the station", "in the old town", "on an island"),
    "weather": ("cold", "hot", "rainy", "windy", "foggy", "sunny"),
    "vehicle": ("train", "bus", "boat", "bicycle", "car"),
    "number": ("two", "three", "four", "five", "six", "seven"),
    "colour": ("red", "blue", "green", "yellow", "black", "white"),
}

STOP, JOINTS = ".", (".", ".", ";", ", and", ", while")
DEED_RATE, REVISION_RATE, REACTION_RATE = 0.25, 0.1, 0.4
OPENING_RATE, FILLER_RATE, PLACE_RATE = 0.6, 0.4, 0.5


class Dice:
    """A stream of choices that is the same on every platform and with every release of numpy."""

    def __init__(self, seed: int) -> None:
        # Only raw output is promised to stay; Generator methods may change between releases.
        bits = np.random.PCG64(seed)
        # One by one, numbers cost more to fetch than to make.
        self._raw: Iterator[int] = (
            number for _ in count() for number in bits.random_raw(1024).tolist()
        )

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound` - 1."""
        return next(self._raw) % bound

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return next(self._raw) < probability * 2.0**64

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]


@dataclass(frozen=True)
class Story:
    """A story that ends with its question, and what it said: noun and polarity of each aspect."""

    text: str
    nouns: Mapping[str, str]
    polarities: Mapping[str, int]

    @property
    def label(self) -> int:
        """1 where an odd number of aspects is judged for worse, else 0."""
        return list(self.polarities.values()).count(WORSE) % 2


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    return sorted({word for text in _tables() for word in text.split() if word[0] != "{"})


def polar_words() -> set[str]:
    """The words of answers and reactions that a polarity decides."""
    advice = (word for a in ASPECTS.values() for words in a.advice for word in words)
    return {*advice, *(text.split()[-1] for texts in REACTIONS for text in texts)}


def pretraining_text(seed: int, num_texts: int, *, echoes: bool = True) -> list[str]:
    """Stories with their answers, for next-word prediction; without echoes they are easier."""
    dice = Dice(seed)
    stories = (_story(dice, _any_aspects(dice)) for _ in range(num_texts))
    return [_answered(story, dice, echoes=echoes) for story in stories]


@cache
def labelled_task() -> dict[str, TextSplit]:
    """The splits train, validation and test; always the same, and no text occurs twice."""
    stories = _distinct_stories(Dice(TASK_SEED))
    return {
        name: _split([next(stories) for _ in range(size)]) for name, size in SPLIT_SIZES.items()
    }


def _split(stories: Sequence[Story]) -> TextSplit:
    return TextSplit(tuple(s.text for s in stories), tuple(s.label for s in stories))


def _distinct_stories(dice: Dice) -> Iterator[Story]:
    seen: set[str] = set()
    while True:
        story = _story(dice, ["food", "service", *(["place"] if dice.chance(PLACE_RATE) else [])])
        if story.text not in seen:
            seen.add(story.text)
            yield story


def _any_aspects(dice: Dice) -> list[str]:
    return dice.shuffled(list(ASPECTS))[: 1 + dice.below(len(ASPECTS))]


def _story(dice: Dice, aspects: Sequence[str]) -> Story:
    """A story about the aspects, in random order, drawn again until it is short enough."""
    while True:
        polarities = {name: dice.below(2) for name in aspects}
        nouns = {name: dice.pick(ASPECTS[name].nouns) for name in aspects}
        sentences = _sentences(dice, polarities, nouns)
        text = " ".join((*_joined(dice, sentences), STOP, dice.pick(QUESTIONS)))
        if len(text.split()) <= MAX_WORDS:
            return Story(text, nouns, polarities)


def _sentences(
    dice: Dice, polarities: Mapping[str, int], nouns: Mapping[str, str]
) -> Iterator[str]:
    if dice.chance(OPENING_RATE):
        yield _fill(dice.pick(OPENINGS), {}, dice)
    revisions: list[str] = []
    for name in dice.shuffled(list(polarities)):
        if dice.chance(FILLER_RATE):
            yield _fill(dice.pick(FILLERS), {}, dice)
        said = polarities[name]
        if dice.chance(REVISION_RATE):
            template, flips = dice.pick(REVISIONS)
            revision = _fill(template, {"noun": nouns[name]}, dice)
            revisions.append(revision + _reaction(dice, said))
            said = BETTER - said if flips else said
        yield _judgement(dice, ASPECTS[name], said, nouns[name]) + _reaction(dice, said)
    yield from revisions
    if dice.chance(FILLER_RATE):
        yield _fill(dice.pick(FILLERS), {}, dice)


def _judgement(dice: Dice, aspect: Aspect, polarity: int, noun: str) -> str:
    if dice.chance(DEED_RATE):
        return _fill(dice.pick(aspect.deeds[polarity]), {"noun": noun}, dice)
    words = {
        "noun": noun,
        "same": dice.pick(aspect.adjectives[polarity] + ANY_ADJECTIVES[polarity]),
        "other": dice.pick(
            aspect.adjectives[BETTER - polarity] + ANY_ADJECTIVES[BETTER - polarity]
        ),
    }
    return _fill(dice.pick(JUDGEMENTS), words, dice)


def _reaction(dice: Dice, polarity: int) -> str:
    if dice.chance(REACTION_RATE):
        return " " + _fill(dice.pick(REACTIONS[polarity]), {}, dice)
    return ""


def _answered(story: Story, dice: Dice, *, echoes: bool) -> str:
    """The story and its answer: one piece of advice for each aspect, in random order."""
    aspects = dice.shuffled(list(story.polarities))
    advice = " , ".join(_advice(story, name, dice, echoes=echoes) for name in aspects)
    address = _address(story, dice) if echoes else ""
    return f"{story.text} {address}{advice} {STOP}"


def _advice(story: Story, name: str, dice: Dice, *, echoes: bool) -> str:
    verb = dice.pick(ASPECTS[name].advice[story.polarities[name]])
    template = dice.pick((PLAIN_ANSWER, ECHO_ANSWER)) if echoes else PLAIN_ANSWER
    return _fill(template, {"verb": verb, "noun": story.nouns[name]}, dice)


def _address(story: Story, dice: Dice) -> str:
    people = [name for name in SLOTS["who"] if name in story.text]
    return f"{dice.pick(people)} , " if people and dice.chance(ADDRESS_RATE) else ""


def _fill(template: str, given: Mapping[str, str], dice: Dice) -> str:
    """The template with each {slot} replaced by its given word, or by a random one."""
    words = (
        (given.get(word[1:-1]) or dice.pick(SLOTS[word[1:-1]])) if word[0] == "{" else word
        for word in template.split()
    )
    return " ".join(" ".join(words).split())


def _joined(dice: Dice, sentences: Iterator[str]) -> Iterator[str]:
    for index, sentence in enumerate(sentences):
        if index:
            yield dice.pick(JOINTS)
        yield sentence


def _tables() -> Iterator[str]:
    """Every string that a text may be made of."""
    yield from chain(JUDGEMENTS, OPENINGS, FILLERS, QUESTIONS, JOINTS)
    yield from (PLAIN_ANSWER, ECHO_ANSWER, STOP)
    yield from chain.from_iterable([*SLOTS.values(), *ANY_ADJECTIVES, *REACTIONS])
    yield from (template for template, _ in REVISIONS)
    for aspect in ASPECTS.values():
        yield from aspect.nouns
        yield from chain.from_iterable(aspect.adjectives + aspect.deeds + aspect.advice)
