"""The classification world: short messages to a small shop, in English and Chinese, each with one of six intents.

No single word decides the intent. The same nouns (parcel, money, lamp, 包裹, 退款) are in several intents, and a negation may
name another intent: "I do not want my money back, I want to know where the parcel is" is about delivery.
"""

from __future__ import annotations

import random

from llmstage.data.rows import Row
from llmstage.demo import words

LABELS = ("account", "complaint", "delivery", "product", "refund", "thanks")

THINGS = {
    "en": words("lamp kettle teapot scarf clock basket mirror blanket chair vase candle towel jacket wallet"),
    "zh": words("台灯 水壶 茶杯 围巾 闹钟 篮子 镜子 毛毯 椅子 花瓶 蜡烛 毛巾 外套 钱包"),
}
TIMES = {
    "en": ("yesterday", "today", "last week", "on Monday", "on Friday", "this morning", "two days ago", "in spring"),
    "zh": ("昨天", "今天", "上周", "星期一", "星期五", "今天早上", "两天前", "春天"),
}
OPENINGS = {
    "en": ("", "Hello. ", "Hi! ", "Good morning. ", "Excuse me. ", "Dear team, "),
    "zh": ("", "您好，", "你好！", "早上好，", "请问，", "麻烦您，"),
}
ORDER = {"en": "My order is {}.", "zh": "订单号{}。"}
NEGATED = {
    "en": {
        "account": ("I have no question about my account.", "My password is fine."),
        "complaint": ("The {thing} is not broken.", "I do not want to complain."),
        "delivery": ("I am not asking where the parcel is.", "The parcel did arrive {time}."),
        "product": ("I know the {thing} well.", "I have no question about the {thing}."),
        "refund": ("I do not want my money back.", "No refund is needed."),
        "thanks": ("I wish I could thank you.", "I cannot say thank you yet."),
    },
    "zh": {
        "account": ("账户没有问题。", "密码是对的。"),
        "complaint": ("{thing}没有坏。", "我不是来投诉的。"),
        "delivery": ("我不是问包裹在哪里。", "包裹{time}已经到了。"),
        "product": ("{thing}我很了解。", "{thing}本身我没有疑问。"),
        "refund": ("我不想退款。", "不用退钱。"),
        "thanks": ("我也想谢谢你们。", "现在还不能说谢谢。"),
    },
}
"""Sentences that deny an intent; they precede a sentence of another intent."""

SENTENCES = {
    "en": {
        "account": (
            "I cannot log in to my account.",
            "How do I change the password that I set {time}?",
            "Please change the address in my account.",
            "Can I see the {thing} I ordered in my account?",
        ),
        "complaint": (
            "The {thing} that came {time} is broken.",
            "I am not happy with the {thing}.",
            "The {thing} is the wrong colour and nobody answered {time}.",
            "Your service was very slow {time}.",
        ),
        "delivery": (
            "Where is the {thing} I ordered {time}?",
            "When will the parcel with the {thing} arrive?",
            "The {thing} has not arrived, can you track the parcel?",
            "Can you deliver the {thing} to another address?",
        ),
        "product": (
            "Is the {thing} made of wood?",
            "How large is the {thing} I saw {time}?",
            "Do you have the {thing} in another colour?",
            "Can I wash the {thing}?",
        ),
        "refund": (
            "I want my money back for the {thing}.",
            "I sent the {thing} back {time}, when do I get the money?",
            "How can I return the {thing} and be paid back?",
            "Please refund the {thing} I ordered {time}.",
        ),
        "thanks": (
            "Thank you, the {thing} is lovely.",
            "The {thing} arrived {time} and I am very happy with it.",
            "Many thanks for your help {time}.",
            "The money came {time}, you were so kind.",
        ),
    },
    "zh": {
        "account": (
            "我登录不了账户。",
            "{time}设的密码怎么改？",
            "请修改我账户里的地址。",
            "账户里能看到我订的{thing}吗？",
        ),
        "complaint": (
            "{time}到的{thing}是坏的。",
            "我对{thing}很不满意。",
            "{thing}颜色不对，{time}也没人回答。",
            "{time}你们的服务太慢了。",
        ),
        "delivery": (
            "{time}订的{thing}到哪里了？",
            "装{thing}的包裹什么时候到？",
            "{thing}还没有到，能查一下包裹吗？",
            "{thing}可以送到别的地址吗？",
        ),
        "product": (
            "{thing}是木头做的吗？",
            "{time}看到的{thing}有多大？",
            "{thing}有别的颜色吗？",
            "{thing}可以洗吗？",
        ),
        "refund": (
            "{thing}的钱请退给我。",
            "{thing}{time}寄回去了，钱什么时候到？",
            "{thing}怎么退货退钱？",
            "{time}订的{thing}，请退款。",
        ),
        "thanks": (
            "谢谢，{thing}很漂亮。",
            "{thing}{time}到了，我非常满意。",
            "{time}多亏你们帮忙，非常感谢。",
            "钱{time}到了，你们真好。",
        ),
    },
}


def classification_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` distinct rows `{"text", "label"}`; languages and the six intents of `LABELS` are equally frequent.

    Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"classification {seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    deck: list[tuple[str, str]] = []
    while len(rows) < num_rows:
        if not deck:  # twelve rows contain each language and intent once
            deck = [(language, label) for language in SENTENCES for label in LABELS]
            rng.shuffle(deck)
        language, label = deck[-1]
        text = draw_text(rng, language, label)
        if text not in seen:
            seen.add(text)
            deck.pop()
            rows.append({"text": text, "label": label})
    return rows


def draw_text(rng: random.Random, language: str, label: str) -> str:
    """Draw a message: an optional greeting, sometimes a denied intent, a sentence of the intent, an order number."""
    sentences = [rng.choice(SENTENCES[language][label])]
    if rng.random() < 0.5:
        denied = rng.choice([name for name in LABELS if name != label])
        sentences.insert(0, rng.choice(NEGATED[language][denied]))
    thing, time = rng.choice(THINGS[language]), rng.choice(TIMES[language])
    texts = [text.format(thing=thing, time=time) for text in sentences]
    # The order number is irrelevant for the intent; it makes the rows of different seeds distinct.
    texts.append(ORDER[language].format(rng.randrange(10000, 100000)))
    return rng.choice(OPENINGS[language]) + ("" if language == "zh" else " ").join(texts)
