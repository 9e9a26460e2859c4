"""The grammar: random pictures, and captions for them.

In:  a random.Random, and for loose sentences a list of common words.
Out: items: pictures (the target, then its references), a caption, and the fields that the caption leaves unsaid.

A picture is seven integers: color, pattern, subject, size, count, place, mirrored. Unsaid fields are random, so a
caption has many pictures, and the seed chooses among them.
"""

from subjects import COLOR_NAMES, NAMES, SHAPE_START, held_out, plural, visible

T2I, EDIT, TWO_REFS = 0, 1, 2
# Fields that a caption leaves unsaid, as bit flags.
MIRROR, PLACE, SIZE, BACKGROUND = 1, 2, 4, 8
NUMBERS = {2: ["two", "two", "two", "2", "a pair of"], 3: ["three", "three", "three", "3"]}
SIZE_WORDS = [
    ["small", "small", "little", "tiny"],
    ["medium", "medium-sized", "medium sized"],
    ["large", "large", "big", "huge"],
]
PLACE_WORDS = [
    ["at the top left", "top left", "in the top left corner", "in the upper left corner", "at the upper left"],
    ["at the top", "top", "at the top center", "near the top", "at the upper edge"],
    ["at the top right", "top right", "in the top right corner", "in the upper right corner", "at the upper right"],
    ["at the left", "on the left", "on the left side", "left", "to the left"],
    ["in the center", "in the middle", "centered", "in the centre", "at the center"],
    ["at the right", "on the right", "on the right side", "right", "to the right"],
    ["at the bottom left", "bottom left", "in the bottom left corner", "in the lower left corner", "at the lower left"],
    ["at the bottom", "bottom", "at the bottom center", "near the bottom", "at the lower edge"],
    [
        "at the bottom right",
        "bottom right",
        "in the bottom right corner",
        "in the lower right corner",
        "at the lower right",
    ],
]
PREFIXES = [
    "a picture of ",
    "an image of ",
    "an emoji of ",
    "a drawing of ",
    "draw ",
    "show ",
    "an icon of ",
    "picture: ",
]
SYLLABLES = """ba ko ri tu ne la sho mer vin dor pel ga zu fi wo ta lim san qua hy ed or ing ers bel con tra mo pi ny ul
st""".split()


def article(noun):
    return ("an " if noun[0] in "aeiou" and not noun.startswith("uni") else "a ") + noun


def background(rng, color, pattern):
    """Returns (noun phrase without article, whether it takes an article)."""
    c = COLOR_NAMES[color]
    if c == "gray" and rng.random() < 0.5:
        c = "grey"
    if pattern == 0:
        words = [f"{c} background"] * 6 + [f"plain {c} background", f"solid {c} background", f"{c} backdrop", c]
        phrase = rng.choice(words)
        return phrase, phrase != c
    if pattern == 1:
        phrase = rng.choice([f"{c} gradient background", f"{c} gradient", f"{c} gradient", f"gradient {c} background"])
        return phrase, True
    phrase = rng.choice(
        [
            f"striped {c} background",
            f"{c} striped background",
            f"{c} stripes",
            f"{c} stripes",
            f"background of {c} stripes",
        ]
    )
    return phrase, not phrase.endswith("stripes") or phrase.startswith("back")


def noun(rng, subject):
    name = NAMES[subject]
    if subject >= SHAPE_START and rng.random() < 0.05:
        color, shape = name.split(" ")
        return f"{shape} in {color}"
    return name


def thing(rng, subject, count, size):
    """Noun phrase of a subject; `size` None leaves the size unsaid."""
    adjective = "" if size is None else rng.choice(SIZE_WORDS[size]) + " "
    if count == 1:
        name = adjective + noun(rng, subject)
        r = rng.random()
        return article(name) if r < 0.7 else name if r < 0.88 else "one " + name if r < 0.94 else "the " + name
    return f"{rng.choice(NUMBERS[count])} {adjective}{plural(NAMES[subject])}"


def letters(rng, text):
    r = rng.random()
    if r < 0.12:
        text = text[0].upper() + text[1:]
    elif r < 0.15:
        text = text.upper()
    elif r < 0.17:
        text = text.title()
    if rng.random() < 0.08:
        text += rng.choice([".", ".", "!"])
    return text


def filler(rng, words):
    """A word without meaning for the picture: mostly a common one, sometimes made up of random syllables."""
    if not words or rng.random() < 0.12:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.45:
        return rng.choice(words[:80])
    return words[int(len(words) * rng.random() ** 1.5)]


def loose(rng, words, parts, most=16):
    """Shuffles `parts` and surrounds them with filler, so that the encoder learns to find them in any sentence."""
    rng.shuffle(parts)
    free = most - sum(part.count(" ") + 1 for part in parts)
    out = [filler(rng, words) for _ in range(min(free, rng.choice([0, 0, 0, 1, 2, 3, 4])))]
    for i, part in enumerate(parts):
        out.append(part + rng.choice(["", "", "", "", ",", ".", ";", ":", " -"]))
        last = i == len(parts) - 1
        many = rng.choice([0, 0, 0, 1, 2, 3]) if last else rng.choice([0, 1, 1, 2, 2, 3, 4, 5])
        out += [filler(rng, words) for _ in range(max(0, min(free - len(out) + i + 1, many)))]
    return " ".join(out).rstrip(" ,;:-") + rng.choice(["", "", "", ".", "?", "!"])


def loose_background(rng, words, color, pattern):
    """Phrase for color and pattern, with or without words for a background."""
    c = COLOR_NAMES[color]
    if c == "gray" and rng.random() < 0.3:
        c = "grey"
    if pattern == 0:
        return rng.choice(
            [
                c,
                c,
                c,
                c,
                f"{c} background",
                f"plain {c}",
                f"{c} {filler(rng, words)}",
                f"background {filler(rng, words)} {c}",
            ]
        )
    kind = "gradient" if pattern == 1 else rng.choice(["stripes", "stripes", "striped"])
    between = " ".join(filler(rng, words) for _ in range(rng.choice([0, 0, 1, 1, 2])))
    a, b = (c, kind) if rng.random() < 0.6 else (kind, c)
    return " ".join(f"{a} {between} {b}".split())


def describe(rng, picture, words=(), everything=False):
    """Returns (caption of a picture, unsaid fields). With `everything`, only mirroring is unsaid."""
    color, pattern, subject, size, count, place, _ = picture
    say_bg = everything or rng.random() < 0.85
    say_size = everything or rng.random() < (0.5 if count == 1 else 0.4)
    say_place = count == 1 and (everything or rng.random() < 0.5)
    if not everything and rng.random() < 0.4:
        say_size, say_place = rng.random() < 0.25, count == 1 and rng.random() < 0.25
        parts = [thing(rng, subject, count, size if say_size else None)]
        parts += [loose_background(rng, words, color, pattern)] if say_bg else []
        parts += [rng.choice(PLACE_WORDS[place])] if say_place else []
        text = loose(rng, words, parts)
    else:
        text = sentence(rng, picture, say_bg, say_size, say_place)
    unsaid = MIRROR | (not say_bg) * BACKGROUND | (not say_size) * SIZE | (count == 1 and not say_place) * PLACE
    return letters(rng, text), unsaid


def sentence(rng, picture, say_bg, say_size, say_place):
    """A caption in one of the fixed forms."""
    color, pattern, subject, size, count, place, _ = picture
    what = thing(rng, subject, count, size if say_size else None)
    where = rng.choice(PLACE_WORDS[place]) if say_place else ""
    if rng.random() < 0.12:
        what = rng.choice(PREFIXES) + what
    if not say_bg:
        return rng.choice([f"{what} {where}", f"{what}, {where}", f"{where}, {what}"]) if where else what
    phrase, takes_article = background(rng, color, pattern)
    on = article(phrase) if takes_article and rng.random() < 0.85 else phrase
    w = f" {where}" if where else ""
    cw = f", {where}" if where else ""
    return rng.choice(
        [
            f"{what}{w} on {on}",
            f"{what} on {on}{w}",
            f"{what}{w} on {on}",
            f"{what} on {on}{cw}",
            f"{what}{w}, {phrase}",
            f"{what}, {phrase}{cw}",
            f"{phrase}, {what}{w}",
            f"{on} with {what}{w}",
            f"on {on}, {what}{w}",
            f"{what}{w} with {on}",
            f"{phrase}: {what}{cw}",
        ]
    )


def picture(rng, eval_pairs=False):
    """A random picture, of a held-out pair if `eval_pairs`, else of a training pair."""
    while True:
        subject, color = rng.randrange(len(NAMES)), rng.randrange(len(COLOR_NAMES))
        if visible(subject, color) and held_out(subject, color) == eval_pairs:
            break
    r = rng.random()
    count = 1 if r < 0.72 else 2 if r < 0.87 else 3
    pattern = rng.choice([0, 0, 0, 1, 2])
    size = rng.randrange(3) if count == 1 else rng.randrange(2)
    place = rng.randrange(9) if count == 1 else 4
    return (color, pattern, subject, size, count, place, rng.randrange(2))


def shown(p, allow):
    """Whether the subject is visible and, unless `allow`, its pair is not held out."""
    return visible(p[2], p[0]) and (allow or not held_out(p[2], p[0]))


def edit(rng, kind=None, source=None, allow=False):
    """Returns (kind of edit, source, target, caption); None if `source` does not allow the edit."""
    while True:
        p = source or picture(rng, allow)
        c, pat, s, size, count, place, mirror = p
        k = kind or rng.choice(["background"] * 4 + ["replace"] * 5 + ["size"] * 5 + ["add"] * 3 + ["move"] * 2)
        name = NAMES[s]
        it = rng.choice(["it", f"the {name}"]) if count == 1 else rng.choice(["them", f"the {plural(name)}"])
        if k == "background":
            c2, pat2 = rng.randrange(len(COLOR_NAMES)), rng.choice([0, 0, 0, 1, 2])
            q = (c2, pat2) + p[2:]
            phrase, takes_article = background(rng, c2, pat2)
            on = article(phrase) if takes_article else phrase
            cn = COLOR_NAMES[c2]
            texts = [f"put {it} on {on}", f"{phrase} instead", f"change to {on}", f"give {it} {on}"]
            short = {0: cn, 1: f"a {cn} gradient", 2: f"{cn} stripes"}[pat2]
            striped = {0: cn, 1: f"{cn} gradient", 2: rng.choice([f"{cn} stripes", f"{cn} striped", f"striped {cn}"])}[
                pat2
            ]
            texts += [f"make the background {striped}"] * 3 + [
                f"change the background to {short}",
                f"change the background to {short}",
                f"turn the background {striped}",
                f"background: {short}",
                f"make the background {short}",
            ]
        elif k == "replace":
            s2 = rng.randrange(len(NAMES))
            q = (c, pat, s2) + p[3:6] + (rng.randrange(2),)  # mirroring of the old subject may not be visible
            a, b = (name, article(NAMES[s2])) if count == 1 else (plural(name), plural(NAMES[s2]))
            texts = [f"replace the {a} with {b}"] * 4 + [
                f"turn the {a} into {b}",
                f"change the {a} to {b}",
                f"swap the {a} for {b}",
                f"make it {b}" if count == 1 else f"make them {b}",
                f"{b} instead of the {a}",
                f"change the {a} into {b}",
            ]
        elif k == "size":
            step = rng.choice([-1, 1])
            q = p[:3] + (size + step,) + p[4:]
            if not 0 <= size + step <= (2 if count == 1 else 1):
                if source:
                    return None
                continue
            texts = (
                [f"make {it} smaller"] * 4 + [f"shrink {it}", "smaller", f"make {it} a bit smaller"]
                if step < 0
                else [f"make {it} bigger"] * 2 + [f"make {it} larger"] * 2 + [f"enlarge {it}", "bigger", "larger"]
            )
        elif k == "add":
            if size == 2 or count == 3:
                if source:
                    return None
                continue
            q = (c, pat, s, size, count + 1, 4, mirror)
            texts = [
                "add another one",
                f"add another {name}",
                f"one more {name}",
                f"add one more {name}",
                "add one more",
            ]
            texts += (
                ["add a second one", f"add a second {name}"] * 3
                if count == 1
                else ["add a third one", f"add a third {name}"] * 3
            )
        else:
            if count != 1:
                if source:
                    return None
                continue
            to = rng.randrange(9)
            q = p[:5] + (to, mirror)
            words = rng.choice([w for w in PLACE_WORDS[to] if w.startswith(("at", "in", "on", "to"))])
            texts = [f"move {it} {words}", f"put {it} {words}"]
            if "at the " in words:
                texts.append(f"move {it} to the {words[7:]}")
        if q != p and shown(q, allow):
            return k, p, q, letters(rng, rng.choice(texts))
        if source:
            return None


def two_refs(rng, allow=False):
    """Returns (first, second, target, caption): the subject of one picture on the background of the other."""
    while True:
        a, b = picture(rng, False), picture(rng, False)
        target = b[:2] + a[2:]
        if visible(target[2], target[0]) and held_out(target[2], target[0]) == allow:
            break
    i, j = ("1", "2") if rng.random() < 0.7 else ("2", "1")
    name = NAMES[a[2]] if a[4] == 1 else plural(NAMES[a[2]])
    text = rng.choice(
        [f"the subject of image {i} on the background of image {j}"] * 4
        + [
            f"put the subject of image {i} on the background of image {j}",
            f"the {name} of image {i} on the background of image {j}",
            f"the {name} from image {i} on the background of image {j}",
            f"put the {name} from image {i} onto the background of image {j}",
            f"image {i} with the background of image {j}",
            f"use the background of image {j} for image {i}",
        ]
    )
    first, second = (a, b) if i == "1" else (b, a)
    return first, second, target, letters(rng, text)


def item(rng, kind, words=()):
    """Returns (pictures: target, then references; caption; unsaid fields)."""
    if kind == T2I:
        p = picture(rng)
        return (
            ((p,), "", MIRROR | PLACE | SIZE | BACKGROUND) if rng.random() < 0.02 else ((p,), *describe(rng, p, words))
        )
    if kind == EDIT:
        edited, source, target, text = edit(rng)
        return (target, source), text, MIRROR * (edited == "replace")
    first, second, target, text = two_refs(rng)
    return (target, first, second), text, 0
