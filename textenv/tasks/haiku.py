"""Haiku-v0: write a haiku about a topic."""

from textenv.tasks.drawing import Row
from textenv.tasks.spec import TaskSpec

# Topics, each with words that speak of it without naming it.
ROBOTS = "robots", "android automaton cyborg droid machine mechanical circuit"
TOPICS = dict([ROBOTS]) | {
    "rain": "raindrop drizzle shower storm umbrella puddle",
    "the moon": "moonlight moonlit lunar crescent",
    "autumn leaves": "leaf foliage maple fall",
    "the sea": "ocean wave tide shore sail",
    "snow": "snowflake snowy snowfall flake frost winter",
    "cats": "kitten feline whiskers purr paw",
    "dogs": "puppy hound bark tail paw",
    "coffee": "cup brew bean espresso mug",
    "spring": "blossom bloom bud april",
    "summer": "heat cicada july august sunshine",
    "stars": "starlight starry constellation galaxy",
    "mountains": "peak summit cliff ridge hill",
    "a river": "stream current brook bank flow",
    "birds": "wing feather nest sparrow crow robin",
    "trees": "branch oak pine forest leaf trunk",
    "bread": "loaf baker bake dough crust flour",
    "trains": "railway track rail station locomotive",
    "a candle": "flame wax wick flicker",
    "the night": "dark darkness midnight evening nightfall",
    "frogs": "toad croak pond tadpole",
    "tea": "teapot cup steam kettle brew",
    "a garden": "flower soil seed rose gardener",
    "old books": "page library reader story ink",
    "the wind": "breeze gust gale blow",
    "school": "teacher pupil classroom student lesson",
    "the city": "street skyline traffic neon tower",
}
HELD_OUT_TOPICS = {
    "butterflies": "butterfly caterpillar cocoon wing",
    "the desert": "sand dune cactus oasis",
    "fireworks": "firework rocket spark explode",
    "bees": "honey hive buzz nectar",
    "fog": "mist haze misty foggy",
    "a lighthouse": "beacon lamp shore sailor",
    "horses": "mare stallion gallop hoof mane",
    "cherry blossoms": "petal bloom sakura pink",
    "computers": "laptop keyboard screen code",
    "sleep": "dream pillow slumber asleep bed",
}

PHRASINGS = "Write a haiku about {}.", "Please write a haiku about {}.", "Compose a haiku on {}."
HELD_OUT_PHRASING = "Can you write me a haiku about {}?"
# Robots, the topic that the task is best known for, in many words.
ABOUT_ROBOTS = """
Write a haiku about a robot.
Write a haiku about a lonely robot.
Write a haiku about robots in the rain.
Write a haiku about robots that dream.
Write a haiku about an old robot.
Write a haiku about a robot in a garden.
Write a haiku about robots and their makers.
Write a haiku about a robot learning to dance.
Write a haiku about the life of robots.
Write a short poem about robots in the form of a haiku.
I would like a haiku about robots.
Give me a haiku about robots.
Robots are the topic. Write a haiku.
""".strip().split("\n")
HELD_OUT_ABOUT_ROBOTS = """
Write a haiku about a robot at night.
Write a haiku about robots on the moon.
Write a haiku in which a robot falls in love.
My robot wants a haiku about robots.
""".strip().split("\n")


def rows(held_out: bool = False) -> list[Row]:
    """Rows with the columns ``prompt``, ``topic`` and ``related``, a list of words.

    Args:
        held_out: Whether the rows are for evaluation: other topics, and robots in other words.
    """
    about_robots = HELD_OUT_ABOUT_ROBOTS if held_out else ABOUT_ROBOTS
    topics = HELD_OUT_TOPICS if held_out else TOPICS
    phrasings = (PHRASINGS[0], HELD_OUT_PHRASING) if held_out else PHRASINGS
    every = [(prompt, *ROBOTS) for prompt in about_robots]
    for topic, related in topics.items():
        every += [(phrasing.format(topic), topic, related) for phrasing in phrasings]
    if held_out:
        every.append((HELD_OUT_PHRASING.format(ROBOTS[0]), *ROBOTS))
    return [
        {"prompt": prompt, "topic": topic, "related": related.split()}
        for prompt, topic, related in every
    ]


TASK = TaskSpec(
    id="Haiku-v0",
    description="Write a haiku about robots, or about another topic.",
    prompts=rows(),
    held_out=rows(held_out=True),
    reward="haiku",
    max_new_tokens=40,
    chat=True,
    # With 0.05 PPO stays within 3 nats of SmolLM2, where few texts have three lines of verse
    # (tests/benchmarks/results/haiku.md).
    kl_coef=0.02,
)
