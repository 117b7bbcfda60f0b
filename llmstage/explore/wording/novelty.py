"""Sentences on logs: what is new in them, and hard for the model."""

from __future__ import annotations

SENTENCES = {
    "texts_read": (
        "{read:,} texts were read; {double:,} repeat an earlier one, {in_pool:,} are in the training pool, and {new:,} are new.",
        "读入 {read:,} 条文本；{double:,} 条与先前的重复，{in_pool:,} 条已在训练池中，{new:,} 条是新的。",
    ),
    "most_valuable_group": (
        "The most valuable group: {num} texts ({group}), new and hard for this model. collected.jsonl lists all, by novelty times {ways}.",
        "最值得看的：{num} 条文本（{group}），对该模型既新又难。collected.jsonl 列出全部，按新颖度乘以“{ways}”排序。",
    ),
    "all_new": (
        "Without training rows every text is new. Name the training pool: data.train=<files>.",
        "没有训练数据时，每条文本都是新的。请指定训练池：data.train=<文件>。",
    ),
    "not_examined": (
        "{num} new texts were not examined: stage.novelty.max_items={most}.",
        "{num} 条新文本没有查看：stage.novelty.max_items={most}。",
    ),
    "hard_by_loss": ("loss per byte above that of a byte bigram model", "每字节损失超出字节对模型的部分"),
    "hard_by_confidence": ("1 - confidence of the prediction", "1 − 预测的置信度"),
    "hard_by_nothing": (
        "nothing: without targets this task has neither a loss nor a confidence",
        "1（没有目标时，该任务既给不出损失也给不出置信度）",
    ),
    "not_readable": ("not readable by this task", "该任务无法读取"),
    "all_texts": ("all", "全部"),
    "groups_title": ("New texts by group", "新文本分组"),
    "groups_columns": ("group|texts|novelty|excess|for example", "组|条数|新颖度|难度|例如"),
    "texts_title": ("New texts, the most valuable first", "新文本（最有价值的在前）"),
    "texts_columns": ("text|novelty|excess|place", "文本|新颖度|难度|位置"),
}
