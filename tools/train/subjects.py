"""What klein-mini draws: emoji subjects, plain shapes, colors, sizes, places.

In:  nothing.
Out: tables shared by data, captions, training and evaluation. Checkpoints depend on their order.

Look-alikes (rabbit and rabbit face, apple and tomato, car and taxi) are left out, because judging between them would be
a matter of chance. So are nouns without a singular (scissors, glasses).
"""

EMOJI = """
cat 🐱|dog 🐶|mouse 🐭|hamster 🐹|rabbit 🐰|fox 🦊|bear 🐻|panda 🐼|koala 🐨|tiger 🐯|lion 🦁|cow 🐮|pig 🐷|frog 🐸|monkey 🐵
chicken 🐔|penguin 🐧|bird 🐦|chick 🐤|owl 🦉|wolf 🐺|horse 🐴|unicorn 🦄|bee 🐝|butterfly 🦋|snail 🐌|ladybug 🐞|ant 🐜|spider 🕷
turtle 🐢|snake 🐍|octopus 🐙|crab 🦀|shrimp 🦐|tropical fish 🐠|dolphin 🐬|whale 🐳|shark 🦈|crocodile 🐊|elephant 🐘|camel 🐫
giraffe 🦒|kangaroo 🦘|parrot 🦜|flamingo 🦩|swan 🦢|peacock 🦚|hedgehog 🦔|sloth 🦥|otter 🦦|skunk 🦨|squirrel 🐿|goat 🐐|sheep 🐑
apple 🍎|pear 🍐|orange 🍊|lemon 🍋|banana 🍌|watermelon 🍉|bunch of grapes 🍇|strawberry 🍓|pineapple 🍍|coconut 🥥|kiwi 🥝
avocado 🥑
eggplant 🍆|carrot 🥕|ear of corn 🌽|broccoli 🥦|mushroom 🍄|peanut 🥜|croissant 🥐|pretzel 🥨|pancake 🥞|piece of cheese 🧀
hamburger 🍔
slice of pizza 🍕|hot dog 🌭|taco 🌮|fried egg 🍳|bowl of salad 🥗|popcorn 🍿|donut 🍩|cookie 🍪|birthday cake 🎂|cupcake 🧁
lollipop 🍭
ice cream 🍦|cup of coffee ☕|glass of milk 🥛|beer 🍺|glass of wine 🍷
sun 🌞|moon 🌙|star ⭐|cloud ☁|rainbow 🌈|snowflake ❄|snowman ⛄|lightning bolt ⚡|fire 🔥|drop of water 💧|umbrella ☂
volcano 🌋|planet 🪐|earth 🌍
tree 🌳|pine tree 🌲|palm tree 🌴|cactus 🌵|tulip 🌷|rose 🌹|sunflower 🌻|four leaf clover 🍀|maple leaf 🍁
car 🚗|bus 🚌|police car 🚓|ambulance 🚑|fire truck 🚒|tractor 🚜|bicycle 🚲|motor scooter 🛵|train 🚂|airplane ✈|rocket 🚀
helicopter 🚁
sailboat ⛵|ship 🚢|flying saucer 🛸|hot air balloon 🎈|anchor ⚓|traffic light 🚦
house 🏠|castle 🏰|tent ⛺|church ⛪|ferris wheel 🎡
smiling face 😀|crying face 😭|cool face 😎|angry face 😡|sick face 🤢|sleeping face 😴|clown 🤡|robot 🤖|alien 👽|ghost 👻
skull 💀|pumpkin 🎃|cowboy 🤠
baby 👶|santa claus 🎅|princess 👸|ninja 🥷|eye 👁|nose 👃|mouth 👄|ear 👂|thumbs up 👍|heart ❤|broken heart 💔|brain 🧠|tooth 🦷
football 🏈|soccer ball ⚽|basketball 🏀|tennis ball 🎾|bowling ball 🎳|dart board 🎯|trophy 🏆|gold medal 🥇|guitar 🎸
violin 🎻|trumpet 🎺|drum 🥁|piano 🎹
light bulb 💡|candle 🕯|book 📕|pencil ✏|key 🔑|lock 🔒|hammer 🔨|bell 🔔|gift 🎁|balloon 🎀|camera 📷|telephone ☎|computer 💻
television 📺|clock ⏰|hourglass ⌛
crown 👑|top hat 🎩|shirt 👕|dress 👗|sneaker 👟|high heel 👠|backpack 🎒|gem 💎|bomb 💣|magnet 🧲|teddy bear 🧸|chair 🪑
bathtub 🛁|door 🚪|envelope ✉|magnifying glass 🔍|money bag 💰
"""

# Corrects names above whose glyph shows something else; a name is what people would type.
RENAME = {"hot air balloon": "balloon", "balloon": "ribbon"}

SHAPES = ["circle", "square", "triangle", "ring", "diamond", "cross"]
SHAPE_COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "black", "white"]

COLORS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 155, 70),
    "blue": (45, 95, 210),
    "purple": (125, 60, 170),
    "pink": (250, 150, 190),
    "brown": (125, 80, 45),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "gray": (135, 135, 135),
    "turquoise": (60, 200, 190),
}
COLOR_NAMES = list(COLORS)
PATTERNS = ["plain", "gradient", "striped"]

SIZES = ["small", "medium", "large"]
SIZE_PX = [48, 64, 96]
# Sides of subjects in pictures of all sizes.
ALL_PX = [32, 48, 64, 96, 128, 192, 256]
# Sides of small, medium and large subjects, by the shorter side of the picture.
PX_BY_SIDE = [(112, [32, 48, 64]), (160, [48, 64, 96]), (224, [64, 96, 128]), (288, [96, 128, 192])]
PX_LARGEST = [128, 192, 256]
# Distance of the outermost places from the edge. All places of a size have the same offset modulo 16, so that a glyph
# gives the same tokens at every place; the middle of a 128 px picture is one of the places.
SIZE_INSET = [8, 0, 0]
PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]

PLURALS = {
    "mouse": "mice",
    "fox": "foxes",
    "wolf": "wolves",
    "butterfly": "butterflies",
    "ladybug": "ladybugs",
    "octopus": "octopuses",
    "tropical fish": "tropical fish",
    "sheep": "sheep",
    "strawberry": "strawberries",
    "piece of cheese": "pieces of cheese",
    "slice of pizza": "slices of pizza",
    "bunch of grapes": "bunches of grapes",
    "ear of corn": "ears of corn",
    "bowl of salad": "bowls of salad",
    "cup of coffee": "cups of coffee",
    "glass of milk": "glasses of milk",
    "glass of wine": "glasses of wine",
    "drop of water": "drops of water",
    "maple leaf": "maple leaves",
    "bus": "buses",
    "church": "churches",
    "santa claus": "santa clauses",
    "cross": "crosses",
    "thumbs up": "thumbs up",
    "cactus": "cactuses",
    "hourglass": "hourglasses",
    "dress": "dresses",
    "baby": "babies",
    "trophy": "trophies",
    "magnifying glass": "magnifying glasses",
    "tooth": "teeth",
    "piano": "pianos",
    "ice cream": "ice creams",
    "princess": "princesses",
    "broccoli": "broccoli",
    "popcorn": "popcorn",
}


def _emoji():
    """Returns (name, glyph) of every emoji subject, in the order above."""
    pairs = [entry.rsplit(" ", 1) for line in EMOJI.split("\n") if line for entry in line.split("|")]
    return [(RENAME.get(name, name), glyph) for name, glyph in pairs]


EMOJI_SUBJECTS = _emoji()
NAMES = [name for name, _ in EMOJI_SUBJECTS] + [f"{c} {s}" for s in SHAPES for c in SHAPE_COLORS]
SHAPE_START = len(EMOJI_SUBJECTS)
assert len(set(NAMES)) == len(NAMES), "names are unique"


def plural(name):
    """Plural of a subject's name."""
    if name in PLURALS:
        return PLURALS[name]
    head, _, last = name.rpartition(" ")
    return f"{head} {PLURALS.get(last, last + 's')}".strip()


# Subject without a name: the card that is drawn for unknown words.
CARD = len(NAMES)

# Other words for a subject.
ALIASES = {
    "cat": "kitten|kitty",
    "dog": "puppy",
    "rabbit": "bunny",
    "cup of coffee": "coffee|espresso",
    "glass of milk": "milk",
    "glass of wine": "wine|red wine",
    "slice of pizza": "pizza",
    "piece of cheese": "cheese",
    "ear of corn": "corn",
    "bunch of grapes": "grapes",
    "bowl of salad": "salad",
    "airplane": "plane|aeroplane|jet",
    "bicycle": "bike",
    "sailboat": "boat|yacht",
    "motor scooter": "scooter|moped",
    "flying saucer": "ufo",
    "tropical fish": "fish",
    "donut": "doughnut",
    "hamburger": "burger",
    "santa claus": "santa",
    "television": "tv",
    "telephone": "phone",
    "four leaf clover": "clover|shamrock",
    "birthday cake": "cake",
    "lightning bolt": "lightning",
    "chicken": "hen",
    "fried egg": "egg",
    "gem": "jewel",
    "gift": "present",
    "light bulb": "bulb",
    "gold medal": "medal",
    "top hat": "hat",
    "money bag": "bag of money",
    "teddy bear": "teddy",
    "envelope": "letter",
    "pine tree": "fir|christmas tree",
    "palm tree": "palm",
    "ice cream": "ice cream cone",
    "computer": "laptop",
    "sneaker": "shoe",
    "drop of water": "water drop",
    "earth": "globe",
    "snake": "serpent",
    "maple leaf": "leaf",
    "smiling face": "smiley",
    "magnifying glass": "magnifier",
    "clock": "alarm clock",
    "soccer ball": "soccer",
    "shirt": "t-shirt",
    "police car": "cop car",
}
ALIASES = {NAMES.index(name): words.split("|") for name, words in ALIASES.items()}


def sides(height, width):
    """Sides in pixels of small, medium and large subjects in a picture of this size."""
    return next((px for least, px in PX_BY_SIDE if min(height, width) < least), PX_LARGEST)


def inset(px, height, width):
    """Distance of the outermost places from the edge, so that a glyph has one offset modulo 16 at all places.

    None in pictures so small that two would overlap.
    """
    return 8 if px % 32 == 16 and min(height, width) > 2 * px else 0


def shape_color(subject):
    """Index in COLOR_NAMES of a shape's color; None for an emoji and for the card."""
    if subject < SHAPE_START or subject == CARD:
        return None
    return COLOR_NAMES.index(SHAPE_COLORS[(subject - SHAPE_START) % len(SHAPE_COLORS)])


def visible(subject, color):
    """Whether the subject is visible: a shape is not, on a background of its own color."""
    return shape_color(subject) != color


def held_out(subject, color):
    """Whether a subject x background pair is held out of training, as one in ten is. The same rule in every stage."""
    return (subject * 7919 + color * 104729 + (subject * color) * 31) % 97 % 10 == 3
