"""The second grammar: scenes of up to four things, captions for them, and edits.

In:  a random.Random and the word lists of Words.
Out: items: scenes (the target, then its references), a caption, the choices the caption leaves unsaid, the unsaid
     fields.

A scene is SCENE integers: color, pattern, then THINGS things of six: subject (-1 for none), size, column, row,
mirrored, tint (-1 for none). Columns and rows are halves of the free space, so a scene fits a picture of any size.
"""

import captions
from captions import BACKGROUND, EDIT, MIRROR, PLACE, PLACE_WORDS, SIZE, SIZE_WORDS, T2I, article, letters, loose
from subjects import (
    ALIASES,
    COLOR_NAMES,
    NAMES,
    SHAPE_COLORS,
    SHAPE_START,
    CARD,
    held_out,
    plural,
    visible,
)

THINGS = 4
SCENE = 2 + 6 * THINGS
NOTHING = (-1, 0, 0, 0, 0, -1)
# Columns and rows of one to four equal things; one has its own place.
SEVERAL = {2: [(0, 1), (2, 1)], 3: [(1, 0), (0, 2), (2, 2)], 4: [(0, 0), (2, 0), (0, 2), (2, 2)]}
NUMBERS = {**captions.NUMBERS, 4: ["four", "four", "four", "4"]}
ORDINALS = {1: "second", 2: "third", 3: "fourth"}
SMALL, MEDIUM, LARGE = 0, 1, 2
ARTICLES = "the the the ein eine der die das un une le la el il een".split()


class Words:
    """Lists of words: common ones without meaning in captions, and nouns and names that the model does not know."""

    def __init__(self, common=(), unknown=()):
        self.common, self.unknown = common, unknown


# ---- scenes ----


def scene(color, pattern, things):
    """A scene as a flat tuple."""
    flat = [v for t in things for v in t] + [v for t in [NOTHING] * (THINGS - len(things)) for v in t]
    return (color, pattern, *flat)


def things_of(s):
    """The things of a flat scene."""
    parts = [tuple(s[2 + 6 * i : 8 + 6 * i]) for i in range(THINGS)]
    return [t for t in parts if t[0] >= 0]


def from_picture(picture, tint=-1):
    """The scene of seven integers as in captions.py; there, count may be four."""
    color, pattern, subject, size, count, place, mirror = picture
    steps = SEVERAL.get(count, [(place % 3, place // 3)])
    return scene(color, pattern, [(subject, size, x, y, mirror, tint) for x, y in steps])


def allowed(s, allow=False):
    """Whether all things are visible and, unless `allow`, no pair of subject and background is held out."""
    for subject, _, _, _, _, tint in things_of(s):
        if subject == CARD:
            continue
        if not visible(subject, s[0]) or tint == s[0] or (not allow and held_out(subject, s[0])):
            return False
    return True


def apart(a, b):
    """Whether things of at most medium size at two places do not overlap, in a square picture."""
    return abs(a[0] - b[0]) == 2 or abs(a[1] - b[1]) == 2


# ---- words ----


def name_of(rng, subject):
    """A singular name: mostly the subject's own."""
    if subject in ALIASES and rng.random() < 0.2:
        return rng.choice(ALIASES[subject])
    return captions.noun(rng, subject)


def thing(rng, subject, size=None, tint=-1, count=1):
    """Noun phrase; size None and tint -1 are left unsaid."""
    adjectives = "" if size is None else rng.choice(SIZE_WORDS[size]) + " "
    if tint >= 0:
        adjectives += color_name(rng, tint) + " "
    if count > 1:
        return f"{rng.choice(NUMBERS[count])} {adjectives}{plural(NAMES[subject])}"
    name = adjectives + name_of(rng, subject)
    r = rng.random()
    return article(name) if r < 0.8 else name if r < 0.9 else "one " + name if r < 0.95 else "the " + name


def color_name(rng, color):
    name = COLOR_NAMES[color]
    return "grey" if name == "gray" and rng.random() < 0.5 else name


def random_subject(rng):
    return rng.randrange(len(NAMES))


def random_pattern(rng):
    return rng.choice([0, 0, 0, 1, 2])


def random_tint(rng, subject):
    """A color for an emoji; -1 for a plain shape, which has its own."""
    return -1 if subject >= SHAPE_START else rng.randrange(len(COLOR_NAMES))


def unknown_noun(rng, words):
    """A noun phrase without article that names no subject."""
    r = rng.random()
    if not words.unknown or r < 0.12:
        word = "".join(rng.choice(captions.SYLLABLES) for _ in range(rng.randint(2, 4)))
    else:
        word = words.unknown[int(len(words.unknown) * rng.random())]
    if rng.random() < 0.15 and words.unknown:
        word = f"{rng.choice(words.unknown)} {word}"
    return word


# ---- text to image ----


def with_background(rng, words, what, color, pattern, say):
    """A sentence around a noun phrase: one of the fixed forms, or a loose one."""
    if rng.random() < 0.4:
        parts = [what] + ([captions.loose_background(rng, words.common, color, pattern)] if say else [])
        return loose(rng, words.common, parts, most=18)
    if rng.random() < 0.12:
        what = rng.choice(captions.PREFIXES) + what
    if not say:
        return what
    phrase, takes_article = captions.background(rng, color, pattern)
    on = article(phrase) if takes_article and rng.random() < 0.85 else phrase
    return rng.choice(
        [f"{what} on {on}"] * 3
        + [f"{what}, {phrase}", f"{phrase}, {what}", f"{on} with {what}", f"on {on}, {what}", f"{what} with {on}"]
    )


def pair(rng, allow=False):
    """A scene of two different things at their places, and a way to say where they are."""
    while True:
        a, b = random_subject(rng), random_subject(rng)
        color, pattern = rng.randrange(len(COLOR_NAMES)), random_pattern(rng)
        how = rng.choice(["and", "and", "beside", "left", "right", "above", "below", "places", "sides"])
        if how in ("above", "below"):
            at = [(1, 0), (1, 2)]
        elif how == "sides":
            at = rng.choice([[(0, 1), (2, 1)], [(1, 0), (1, 2)]])
        elif how == "places":
            while True:
                at = [(rng.randrange(3), rng.randrange(3)) for _ in range(2)]
                if apart(*at):
                    break
        else:
            at = [(0, 1), (2, 1)]
        if rng.random() < 0.35:
            sizes = [rng.randrange(2), rng.randrange(2)]
        else:
            sizes = [MEDIUM, MEDIUM]
        mirror = rng.randrange(2)
        s = scene(color, pattern, [(t, z, *p, mirror, -1) for t, z, p in zip((a, b), sizes, at)])
        if a != b and allowed(s, allow):
            return s, how


def say_pair(rng, s, how):
    """The noun phrase of a pair. Unsaid sizes are medium; large is said of the largest that fits, which is medium."""
    (a, za, *pa), (b, zb, *pb) = ((t[0], t[1], t[2], t[3]) for t in things_of(s))
    spoken = lambda z: rng.choice([MEDIUM, LARGE]) if z == MEDIUM else SMALL
    said = (za, zb) != (MEDIUM, MEDIUM) or rng.random() < 0.15
    x = thing(rng, a, spoken(za) if said and (za == SMALL or rng.random() < 0.6) else None)
    y = thing(rng, b, spoken(zb) if said and (zb == SMALL or rng.random() < 0.6) else None)
    place = lambda p: rng.choice(PLACE_WORDS[p[0] + 3 * p[1]][:4])
    if how == "and":
        return rng.choice([f"{x} and {y}"] * 4 + [f"{x} with {y}", f"{x} & {y}", f"{x}, {y}", f"{x} plus {y}"])
    if how == "beside":
        return f"{x} {rng.choice(['next to', 'beside', 'near', 'by', 'alongside'])} {y}"
    if how == "left":
        return f"{x} {rng.choice(['left of', 'to the left of', 'on the left of'])} {y}"
    if how == "right":
        return f"{y} {rng.choice(['right of', 'to the right of', 'on the right of'])} {x}"
    if how == "above":
        return f"{x} {rng.choice(['above', 'over', 'on top of', 'atop'])} {y}"
    if how == "below":
        return f"{y} {rng.choice(['below', 'under', 'beneath', 'underneath'])} {x}"
    first, second = f"{x} {place(pa)}", f"{y} {place(pb)}"
    if rng.random() < 0.3:
        first, second = second, first
    return rng.choice([f"{first} and {second}", f"{first}, {second}", f"{first} and {second}"])


def card(color, pattern):
    """What is drawn for a caption without any known subject: a large card with a question mark."""
    return scene(color, pattern, [(CARD, LARGE, 1, 1, 0, -1)])


def unknown_caption(rng, words, color, pattern, say):
    noun = unknown_noun(rng, words)
    r = rng.random()
    if r < 0.1:
        noun = f"{rng.choice(captions.NUMBERS[2])} {noun}s"
    else:
        if r < 0.25:
            noun = f"{rng.choice(SIZE_WORDS[rng.randrange(3)])} {noun}"
        r = rng.random()
        if r < 0.5:
            noun = article(noun)
        elif r < 0.66:
            noun = f"{rng.choice(ARTICLES)} {noun}"
    return with_background(rng, words, noun, color, pattern, say)


def random_picture(rng, allow=False):
    """As captions.picture, with one to four of a thing."""
    p = captions.picture(rng, allow)
    if p[4] == 3 and rng.random() < 0.45:
        p = p[:4] + (4,) + p[5:]
    return p


def describe(rng, p, words, tint=-1):
    """(caption, unsaid fields) of one to four of a thing, perhaps in another color."""
    color, pattern, subject, size, count, place, _ = p
    if count < 4 and tint < 0:
        return captions.describe(rng, p, words.common)
    say_bg, say_size = rng.random() < 0.85, rng.random() < 0.4
    say_place = count == 1 and rng.random() < 0.4
    what = thing(rng, subject, size if say_size else None, tint, count)
    if say_place:
        what += " " + rng.choice(PLACE_WORDS[place])
    text = with_background(rng, words, what, color, pattern, say_bg)
    unsaid = MIRROR | (not say_bg) * BACKGROUND | (not say_size) * SIZE | (count == 1 and not say_place) * PLACE
    return letters(rng, text), unsaid


def text_to_image(rng, words):
    r = rng.random()
    if r < 0.015:
        p = captions.picture(rng)
        return (from_picture(p),), "", p, MIRROR | PLACE | SIZE | BACKGROUND
    if r < 0.12:
        color, pattern, say = rng.randrange(len(COLOR_NAMES)), random_pattern(rng), rng.random() < 0.75
        text = letters(rng, unknown_caption(rng, words, color, pattern, say))
        return (card(color, pattern),), text, (color, pattern, CARD, LARGE, 1, 4, 0), BACKGROUND * (not say)
    if r < 0.4:
        s, how = pair(rng)
        say = rng.random() < 0.85
        text = letters(rng, with_background(rng, words, say_pair(rng, s, how), s[0], s[1], say))
        return (s,), text, choices(s), MIRROR | BACKGROUND * (not say)
    p = random_picture(rng)
    tint = random_tint(rng, p[2]) if r < 0.5 else -1
    if tint == p[0]:
        tint = -1
    return (from_picture(p, tint),), *with_choices(p, describe(rng, p, words, tint))


def with_choices(p, told):
    text, unsaid = told
    return text, p, unsaid


def choices(s):
    """The fields of a scene that noise may choose, as the seven integers of captions.py."""
    ts = things_of(s)
    first = ts[0] if ts else NOTHING
    return (s[0], s[1], first[0], first[1], max(1, len(ts)), first[2] + 3 * first[3], first[4])


# ---- edits ----


def source_scene(rng, allow=False):
    """A scene to edit."""
    r = rng.random()
    if r < 0.25:
        return pair(rng, allow)[0]
    while True:
        p = random_picture(rng, allow)
        tint = random_tint(rng, p[2]) if r < 0.3 else -1
        s = from_picture(p, tint)
        if allowed(s, allow):
            return s


def kinds_of(s):
    """Things grouped by subject: [(subject, things)]."""
    groups = {}
    for t in things_of(s):
        groups.setdefault(t[0], []).append(t)
    return list(groups.items())


def named(rng, subject, count, pronoun):
    """ "the cat", "the cats", or a pronoun where only one subject is there."""
    if pronoun and rng.random() < 0.5:
        return "it" if count == 1 else "them"
    return f"the {NAMES[subject] if count == 1 else plural(NAMES[subject])}"


def with_things(s, things):
    return scene(s[0], s[1], things)


def bigger(rng, s, subject, ts, it):
    """Bigger, smaller, or a size by name."""
    most = LARGE if len(things_of(s)) == 1 else MEDIUM
    size = ts[0][1]
    r = rng.random()
    if r < 0.2:
        to = rng.randrange(3)
        word = rng.choice(SIZE_WORDS[to])
        text = rng.choice([f"make {it} {word}", f"make {it} {word}", f"{it} should be {word}"])
    elif r < 0.6:
        to = size + 1
        text = rng.choice(
            [f"make {it} bigger"] * 3
            + [f"make {it} larger"] * 2
            + [f"enlarge {it}", f"grow {it}", "bigger", "larger", "zoom in", f"make {it} a bit bigger", f"{it} bigger"]
        )
    else:
        to = size - 1
        text = rng.choice(
            [f"make {it} smaller"] * 4
            + [f"shrink {it}", f"reduce {it}", "smaller", "zoom out", f"make {it} a bit smaller", f"{it} smaller"]
        )
    to = max(SMALL, min(most, to))
    if to == size and rng.random() < 0.5:
        return None
    if len(kinds_of(s)) > 1 and text in ("bigger", "smaller", "larger", "zoom in", "zoom out"):
        return None
    return with_things(s, [(t[0], to, *t[2:]) if t[0] == subject else t for t in things_of(s)]), text


def recolor(rng, s, subject, ts, it):
    color = rng.randrange(len(COLOR_NAMES))
    name = color_name(rng, color)
    if subject >= SHAPE_START:
        if COLOR_NAMES[color] not in SHAPE_COLORS:
            return None
        other = SHAPE_START + (subject - SHAPE_START) // len(SHAPE_COLORS) * len(SHAPE_COLORS)
        other += SHAPE_COLORS.index(COLOR_NAMES[color])
        change = lambda t: (other, *t[1:])
    else:
        change = lambda t: (*t[:5], color)
    text = rng.choice(
        [f"make {it} {name}"] * 4
        + [
            f"color {it} {name}",
            f"paint {it} {name}",
            f"turn {it} {name}",
            f"recolor {it} to {name}",
            f"{it} in {name}",
        ]
        + [f"change the color of {it} to {name}"]
    )
    return with_things(s, [change(t) if t[0] == subject else t for t in things_of(s)]), text


def remove(rng, s, subject, ts, it):
    rest = [t for t in things_of(s) if t[0] != subject]
    if len(ts) > 1 and rng.random() < 0.5:
        p = (s[0], s[1], subject, ts[0][1], len(ts) - 1, 4, ts[0][4])
        if rest:
            return None
        name = NAMES[subject]
        return from_picture(p, ts[0][5]), rng.choice(
            ["remove one", f"remove one {name}", f"one {name} less", "take one away"]
        )
    return with_things(s, rest), rng.choice(
        [f"remove {it}"] * 4
        + [f"delete {it}", f"erase {it}", f"take {it} away", f"take away {it}", f"without {it}", f"get rid of {it}"]
    )


def move(rng, s, subject, ts, it):
    if len(ts) > 1:
        return None
    others = [t for t in things_of(s) if t[0] != subject]
    to = (rng.randrange(3), rng.randrange(3))
    if any(not apart(to, t[2:4]) for t in others):
        return None
    words = rng.choice([w for w in PLACE_WORDS[to[0] + 3 * to[1]] if w.startswith(("at", "in", "on", "to"))])
    texts = [f"move {it} {words}", f"put {it} {words}", f"{it} {words}"]
    if "at the " in words:
        texts += [f"move {it} to the {words[7:]}"] * 2
    moved = with_things(s, [(*t[:2], *to, *t[4:]) if t[0] == subject else t for t in things_of(s)])
    return moved, rng.choice(texts)


def replace(rng, s, subject, ts, it, words):
    """Another subject, or the card for a word that is not known, at the same places."""
    count = len(ts)
    if words.unknown and count == 1 and rng.random() < 0.12:
        other, b = CARD, article(unknown_noun(rng, words))
    else:
        other = random_subject(rng)
        if any(t[0] == other for t in things_of(s)):
            return None
        b = article(name_of(rng, other)) if count == 1 else plural(NAMES[other])
    a = NAMES[subject] if count == 1 else plural(NAMES[subject])
    mirror = rng.randrange(2) if other != CARD else 0
    text = rng.choice(
        [f"replace the {a} with {b}"] * 4
        + [f"turn the {a} into {b}", f"change the {a} to {b}", f"swap the {a} for {b}", f"{b} instead of the {a}"]
        + [f"change the {a} into {b}", f"make {it} {b}" if other != CARD else f"replace {it} with {b}"]
        + [f"replace {it} with {b}"]
    )
    q = with_things(s, [(other, *t[1:4], mirror, -1) if t[0] == subject else t for t in things_of(s)])
    return q, text, mirror


def add_same(rng, s):
    (subject, ts), *more = kinds_of(s)
    count, name = len(ts), NAMES[subject]
    if more or count == THINGS:
        return None
    size = min(ts[0][1], MEDIUM)
    texts = ["add another one", f"add another {name}", f"one more {name}", f"add one more {name}", "add one more"]
    texts += [f"add a {ORDINALS[count]} one", f"add a {ORDINALS[count]} {name}"] * 3
    q = from_picture((s[0], s[1], subject, size, count + 1, 4, ts[0][4]), ts[0][5])
    return q, rng.choice(texts)


def beside(t):
    """Places of a thing and of one that is added to it: the old one stays where there is room on the other side."""
    x, y = t[2:4]
    if t[1] == LARGE or (x, y) == (1, 1):
        return (0, 1), (2, 1)
    return (x, y), ((2 - x, y) if x != 1 else (1, 2 - y))


def add_other(rng, s, words):
    """A thing of another kind: at a place that is said, beside the first in a direction that is said, or beside it."""
    ts = things_of(s)
    if len(ts) != 1:
        return None
    other = random_subject(rng)
    old = ts[0]
    if other == old[0]:
        return None
    size, mirror = min(old[1], MEDIUM), rng.randrange(2)
    b, a = article(name_of(rng, other)), NAMES[old[0]]
    if words.unknown and rng.random() < 0.08:
        other, mirror, b = CARD, 0, article(unknown_noun(rng, words))
    r = rng.random()
    if r < 0.45:
        here, there = beside(old)
        text = rng.choice(
            [f"add {b}"] * 5
            + [
                f"add {b} next to {rng.choice(['it', 'the ' + a])}",
                f"put {b} beside it",
                f"also {b}",
                f"and {b}",
                f"with {b}",
            ]
        )
    elif r < 0.75:
        there = (rng.randrange(3), rng.randrange(3))
        here = old[2:4]
        if old[1] == LARGE or not apart(here, there):
            return None
        text = f"{rng.choice(['add', 'add', 'put'])} {b} {rng.choice(PLACE_WORDS[there[0] + 3 * there[1]][:4])}"
    else:
        it = rng.choice(["it", f"the {a}"])
        way = rng.choice(["left", "right", "above", "below"])
        (here, there), texts = {
            "left": (((2, 1), (0, 1)), [f"to the left of {it}", f"left of {it}"]),
            "right": (((0, 1), (2, 1)), [f"to the right of {it}", f"right of {it}"]),
            "above": (((1, 2), (1, 0)), [f"above {it}", f"over {it}"]),
            "below": (((1, 0), (1, 2)), [f"below {it}", f"under {it}"]),
        }[way]
        text = f"{rng.choice(['add', 'put'])} {b} {rng.choice(texts)}"
    q = with_things(s, [(old[0], size, *here, *old[4:]), (other, size, *there, mirror, -1)])
    return q, text, mirror


def background(rng, s):
    color, pattern = rng.randrange(len(COLOR_NAMES)), random_pattern(rng)
    groups = kinds_of(s)
    subject, ts = rng.choice(groups)
    it = named(rng, subject, len(ts), len(groups) == 1) if len(groups) == 1 else "them"
    phrase, takes_article = captions.background(rng, color, pattern)
    on = article(phrase) if takes_article else phrase
    name = color_name(rng, color)
    short = {0: name, 1: f"a {name} gradient", 2: f"{name} stripes"}[pattern]
    striped = {0: name, 1: f"{name} gradient", 2: rng.choice([f"{name} stripes", f"{name} striped", f"striped {name}"])}
    texts = [f"put {it} on {on}", f"{phrase} instead", f"change to {on}", f"give {it} {on}"]
    texts += [f"make the background {striped[pattern]}"] * 3 + [f"change the background to {short}"] * 2
    texts += [f"turn the background {striped[pattern]}", f"background: {short}", f"make the background {short}"]
    return (color, pattern, *s[2:]), rng.choice(texts)


def recaption(rng, s, words):
    """A caption of the target without an instruction: what it does not say stays as in the source."""
    groups = kinds_of(s)
    if len(groups) != 1 or len(groups[0][1]) != 1:
        return None
    old = groups[0][1][0]
    other, mirror = random_subject(rng), rng.randrange(2)
    color, pattern = (rng.randrange(len(COLOR_NAMES)), random_pattern(rng)) if rng.random() < 0.4 else s[:2]
    if (color, pattern) == s[:2]:
        text = thing(rng, other)
    else:
        text = with_background(rng, words, thing(rng, other), color, pattern, True)
    return scene(color, pattern, [(other, *old[1:4], mirror, -1)]), text, mirror


EDITS = ["background"] * 3 + ["replace"] * 5 + ["size"] * 7 + ["same"] * 3 + ["other"] * 4 + ["move"] * 3
EDITS += ["recolor"] * 4 + ["remove"] * 3 + ["caption"] * 2


def edit(rng, words=Words(), kind=None, source=None, allow=False):
    """(kind, source, target, caption, mirrored: None if as in the source); None if `source` has no such edit."""
    while True:
        s = source or source_scene(rng, allow)
        k = kind or rng.choice(EDITS)
        groups = kinds_of(s)
        subject, ts = rng.choice(groups)
        it = named(rng, subject, len(ts), len(groups) == 1)
        made = {
            "background": lambda: background(rng, s),
            "replace": lambda: replace(rng, s, subject, ts, it, words),
            "size": lambda: bigger(rng, s, subject, ts, it),
            "same": lambda: add_same(rng, s),
            "other": lambda: add_other(rng, s, words),
            "move": lambda: move(rng, s, subject, ts, it),
            "recolor": lambda: recolor(rng, s, subject, ts, it),
            "remove": lambda: remove(rng, s, subject, ts, it),
            "caption": lambda: recaption(rng, s, words),
        }[k]()
        if made and allowed(made[0], allow) and (made[0] != s or k == "size"):
            q, text, *mirror = made
            return k, s, q, letters(rng, text), mirror[0] if mirror else None
        if source:
            return None


def two_references(rng, allow=False):
    """(first, second, target, caption): the subject of one on the background of the other, or both side by side."""
    while True:
        made = combine(rng, source_scene(rng), source_scene(rng), allow)
        if made:
            return made


def combine(rng, a, b, allow=False):
    """As two_references, of the subject of `a`; None if the scenes do not allow it."""
    ga, gb = kinds_of(a), kinds_of(b)
    if len(ga) > 1:
        return None
    subject, ts = ga[0]
    i, j = ("1", "2") if rng.random() < 0.7 else ("2", "1")
    name = NAMES[subject] if len(ts) == 1 else plural(NAMES[subject])
    if rng.random() < 0.25 and len(ts) == 1 and len(gb) == 1 and len(gb[0][1]) == 1 and gb[0][0] != subject:
        left, right = ts[0], gb[0][1][0]
        target = with_things(a, [(left[0], MEDIUM, 0, 1, *left[4:]), (right[0], MEDIUM, 2, 1, *right[4:])])
        other = NAMES[right[0]]
        texts = [
            f"the subject of image {i} next to the subject of image {j}",
            f"put the {name} from image {i} next to the {other} from image {j}",
            f"the {name} of image {i} and the {other} of image {j}",
            f"add the subject of image {j} to image {i}",
            f"add the {other} from image {j} to image {i}",
        ]
    else:
        target = (*b[:2], *a[2:])
        texts = [f"the subject of image {i} on the background of image {j}"] * 4 + [
            f"put the subject of image {i} on the background of image {j}",
            f"the {name} of image {i} on the background of image {j}",
            f"the {name} from image {i} on the background of image {j}",
            f"put the {name} from image {i} onto the background of image {j}",
            f"image {i} with the background of image {j}",
            f"use the background of image {j} for image {i}",
        ]
    if not allowed(target, allow):
        return None
    first, second = (a, b) if i == "1" else (b, a)
    return first, second, target, letters(rng, rng.choice(texts))


def item(rng, kind, words):
    """(scenes: target, then references; caption; choices as in `choices`; unsaid fields)."""
    if kind == T2I:
        return text_to_image(rng, words)
    if kind == EDIT:
        _, source, target, text, mirror = edit(rng, words)
        chosen = choices(target)
        return (target, source), text, (*chosen[:6], mirror or 0), MIRROR * (mirror is not None)
    first, second, target, text = two_references(rng)
    return (target, first, second), text, choices(target), 0
