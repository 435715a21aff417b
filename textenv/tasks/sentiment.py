"""Sentiment-v0: continue the opening of a film review in the most positive way."""

from textenv.prompts.load import BUNDLED_PROMPTS
from textenv.tasks.spec import TaskSpec

OPENINGS = BUNDLED_PROMPTS.read_text().splitlines()

HELD_OUT_OPENINGS = """
The opening scene
The soundtrack
The visuals
The villain
The final act
The second half
The costumes
The editing
The lead actress
The supporting cast
The romance
The humor
The twist
The hero
The premise
The sequel
The child actors
The fight scenes
Every scene
This story
This sequel
In the end, the film
At first, the movie
To be honest, the film
I felt that the plot
I found the story
I thought the music
I thought the director
My favorite part
We watched this movie
Nobody in the cast
What I remember
""".strip().split("\n")

TASK = TaskSpec(
    id="Sentiment-v0",
    description="Continue the opening of a film review as positively as possible.",
    prompts="bundled",
    held_out=[{"prompt": opening} for opening in HELD_OUT_OPENINGS],
    reward="sentiment",
    max_new_tokens=24,
    kl_coef=0.1,
)
