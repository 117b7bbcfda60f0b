"""The page's own words in the languages it is written in; sentences and numbers come from the stage."""

from __future__ import annotations

WORDS = {
    "en": {
        "found": "What was found", "limits": "What could not be concluded", "nothing": "Nothing was found.",
        "findings": "Figures and tables", "machine": "Model, machine, versions", "reproduce": "Reproduce", "folder": "Run folder",
        "copy": "one click selects all", "explored": "What the model can do, and where it changes",
        "scores_of": "Verdicts on {name}",
        "seed": "seed", "parameters": "parameters", "with": "with",
        "footer": "Written by llmstage. This file holds everything it shows; it needs no network.",
    },
    "zh": {
        "found": "发现", "limits": "无法下结论之处", "nothing": "没有发现。", "findings": "图表", "machine": "模型、机器与版本",
        "reproduce": "复现", "folder": "运行目录", "copy": "单击全选", "explored": "模型会什么，在何处变化", "scores_of": "对 {name} 的判定",
        "seed": "种子", "parameters": "个参数", "with": "·", "completed": "已完成", "failed": "失败", "interrupted": "已中断",
        "footer": "由 llmstage 生成。页面所示内容全部在此文件中，无需网络。",
    },
}  # fmt: skip


def page_words(language: object) -> dict[str, str]:
    """`zh` or, for anything else, English."""
    return WORDS["zh" if str(language or "").startswith("zh") else "en"]
