"""The recommendation world: a small library of English and Chinese books in eight genres, and readers with tastes.

Each reader likes two genres and reads several books of one before changing to the other. The next book therefore depends on
the last ones, not only on popularity. Titles reveal the genre; a few books are popular with all readers.
"""

from __future__ import annotations

import random

from llmstage.data.rows import Row
from llmstage.demo import words

GENRES = {
    "sea": (words("harbour tide lighthouse sailor reef anchor"), words("海港 潮水 灯塔 水手 礁石 船锚")),
    "mountain": (words("glacier summit valley ridge hut avalanche"), words("冰川 山顶 山谷 山脊 小屋 雪崩")),
    "kitchen": (words("bread spice oven soup honey dumpling"), words("面包 香料 炉火 热汤 蜂蜜 饺子")),
    "music": (words("violin choir melody drum concert flute"), words("提琴 合唱 旋律 鼓声 音乐会 竹笛")),
    "robots": (words("robot circuit engine android signal satellite"), words("机器人 电路 引擎 芯片 信号 卫星")),
    "garden": (words("rose orchard meadow seed beehive fern"), words("玫瑰 果园 草地 种子 蜂巢 蕨草")),
    "mystery": (words("detective shadow cipher alibi clue riddle"), words("侦探 影子 密码 不在场 线索 谜语")),
    "history": (words("empire castle scroll emperor silk crown"), words("帝国 城堡 卷轴 皇帝 丝绸 王冠")),
}
FORMS = ("The Last {}", "Song of the {}", "Under the {}", "{} and I")
FORMS_ZH = ("最后的{}", "{}之歌", "{}下面", "我和{}")
WORLD = 7
"""Seed of the library, which is the same for all readers."""


def library() -> list[tuple[str, str, str, float]]:
    """Return (item, title, genre, popularity) of every book; each genre has as many English as Chinese books."""
    rng = random.Random(f"library {WORLD}")
    books: list[tuple[str, str, str, float]] = []
    for genre, (english, chinese) in GENRES.items():
        for number in range(len(english)):
            form = (number + len(books)) % len(FORMS)
            titles = (FORMS[form].format(english[number].capitalize()), FORMS_ZH[form].format(chinese[number]))
            for title in titles:
                books.append((f"b{len(books):03d}", f"{title} | {genre}", genre, rng.paretovariate(1.5)))
    return books


def recommendation_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` readers with 8 to 16 books each, in the order of reading, rated 1 to 5.

    Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"recommendation {seed}")
    books = library()
    by_genre = {genre: [book for book in books if book[2] == genre] for genre in GENRES}
    rows: list[Row] = []
    for number in range(num_rows):
        loved = rng.sample(list(GENRES), 2)
        genre, left, now = loved[0], rng.randint(2, 5), 1_600_000_000 + rng.randrange(10_000_000)
        had: list[tuple[str, str, int]] = []
        for _ in range(rng.randint(8, 16)):
            if left == 0:
                genre, left = loved[loved.index(genre) - 1], rng.randint(2, 5)
            left -= 1
            stray = rng.random() < 0.1
            shelf = [
                book for book in (books if stray else by_genre[genre]) if book[0] not in {item for item, _, _ in had}
            ]
            if not shelf:
                continue
            book = rng.choices(shelf, [book[3] for book in shelf])[0]
            liked = book[2] in loved
            had.append((book[0], book[1], rng.choice((4, 5)) if liked else rng.choice((1, 2, 3))))
        times = [now + 86_400 * day for day in range(len(had))]
        item, text, rating = (list(column) for column in zip(*had, strict=True))
        rows.append({"user": f"r{seed}-{number}", "item": item, "rating": rating, "time": times, "text": text})
    return rows
