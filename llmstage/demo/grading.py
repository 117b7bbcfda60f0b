"""The grading world: short answers to school questions, in English and Chinese. The grade is the number of key points, 0 to 4.

Each question has four key points with three wordings each. An answer contains some of them and irrelevant sentences, so that
its length does not reveal the grade.
"""

from __future__ import annotations

import random

from llmstage.data.rows import Row

Question = tuple[str, tuple[tuple[str, str, str], ...], tuple[str, ...]]
"""(question, four key points in three wordings each, irrelevant sentences)"""

QUESTIONS: dict[str, tuple[Question, ...]] = {
    "en": (
        (
            "Why do leaves look green, and what do they do with light?",
            (
                ("Chlorophyll reflects green light.", "The green pigment is chlorophyll.", "They hold chlorophyll."),
                ("Light gives the energy to make sugar.", "Sugar is built with light.", "Light is turned into sugar."),
                ("They take in carbon dioxide.", "Carbon dioxide enters the leaf.", "Carbon dioxide is used up."),
                ("Oxygen is set free.", "They give off oxygen.", "Oxygen leaves the leaf."),
            ),
            (
                "Plants are important for nature.",
                "Leaves fall in autumn.",
                "Green is a calm colour.",
                "Trees can be tall.",
            ),
        ),
        (
            "What happens when water goes through its cycle?",
            (
                ("The sun makes water evaporate.", "Water rises as vapour.", "Seas evaporate in the heat."),
                ("Vapour condenses into clouds.", "Clouds form as it cools.", "Cold air turns vapour to drops."),
                ("It falls as rain or snow.", "Rain brings it down.", "Snow and rain return it."),
                ("Rivers carry it to the sea.", "It flows back to the sea.", "Streams lead it to the sea."),
            ),
            ("Water is needed by everyone.", "The sea is deep.", "Clouds can be pretty.", "Some days are warmer."),
        ),
        (
            "How does a firm know whether it earns money?",
            (
                ("It adds up its sales.", "Revenue is counted.", "The income from sales is summed."),
                ("It takes away its costs.", "Costs are subtracted.", "Spending is deducted."),
                ("What is left is the profit.", "The rest is called profit.", "A positive rest is profit."),
                ("Taxes are paid from it.", "Tax lowers the rest.", "The state takes tax."),
            ),
            ("Firms have many workers.", "Money is useful.", "Some firms are famous.", "Offices are often large."),
        ),
    ),
    "zh": (
        (
            "叶子为什么是绿色的，它用光做什么？",
            (
                ("叶绿素反射绿光。", "绿色来自叶绿素。", "里面有叶绿素。"),
                ("光能用来制造糖。", "用光合成糖分。", "光变成了糖。"),
                ("吸收二氧化碳。", "二氧化碳进入叶子。", "要用二氧化碳。"),
                ("放出氧气。", "氧气从叶子出来。", "会产生氧气。"),
            ),
            ("植物对自然很重要。", "秋天会落叶。", "绿色让人安静。", "有的树很高。"),
        ),
        (
            "水的循环是怎样进行的？",
            (
                ("太阳使水蒸发。", "水变成水汽上升。", "海水受热蒸发。"),
                ("水汽凝结成云。", "遇冷形成云。", "冷空气让水汽成滴。"),
                ("以雨雪落下。", "下雨回到地面。", "雨和雪带回水。"),
                ("河流把水带回海里。", "最后流回大海。", "小溪流向大海。"),
            ),
            ("人人都需要水。", "大海很深。", "云有时很好看。", "有些天更暖和。"),
        ),
        (
            "公司怎样知道自己是否赚钱？",
            (
                ("把销售额加起来。", "统计营业收入。", "汇总卖出的收入。"),
                ("减去成本。", "扣除费用。", "支出要减掉。"),
                ("剩下的是利润。", "余额叫做利润。", "结余为正就是利润。"),
                ("还要交税。", "税会减少余额。", "国家要收税。"),
            ),
            ("公司有很多员工。", "钱很有用。", "有些公司很有名。", "办公室常常很大。"),
        ),
    ),
}
OPENINGS = {
    "en": ("", "I think so: ", "Well, ", "As we learned, ", "In short: ", "From my notes {}: "),
    "zh": ("", "我认为：", "老师讲过，", "简单地说，", "据我所知，", "笔记第{}页写着："),
}


def grading_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` distinct rows `{"text": question, "text_pair": answer, "label": grade}`.

    Grades and languages are equally frequent. Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"grading {seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        grade, language = len(rows) % 5, ("en", "zh")[len(rows) // 5 % 2]
        question, points, irrelevant = rng.choice(QUESTIONS[language])
        sentences = [rng.choice(points[index]) for index in rng.sample(range(4), grade)]
        sentences += rng.sample(irrelevant, rng.randint(1 if grade < 2 else 0, 4 - grade // 2))
        rng.shuffle(sentences)
        opening = rng.choice(OPENINGS[language]).format(rng.randrange(2, 1000))
        answer = opening + ("" if language == "zh" else " ").join(sentences)
        if question + answer not in seen:
            seen.add(question + answer)
            rows.append({"text": question, "text_pair": answer, "label": grade})
    return rows
